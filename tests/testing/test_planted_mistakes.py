"""`check` finds each of these mistakes, and says it in one line: where in the plugin, what, and the remedy."""

from pathlib import Path

import pytest

from maskbench.testing.conformance import (
    OBJECTIVE_STEPS,
    PROBE_STEPS,
    STRATEGY_STEPS,
    check_component,
    check_name,
    components_of,
)
from tests.helpers.planted_mistakes import OBJECTIVE, OBJECTIVES, PROBE, PROBES, STRATEGIES, STRATEGY, Planted

MISTAKES = [*STRATEGIES, *OBJECTIVES, *PROBES]


pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.mark.parametrize("planted", MISTAKES, ids=[planted.name.replace(" ", "-") for planted in MISTAKES])
def test_a_mistake_is_one_line_with_its_place_and_the_remedy(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("planted.py").write_text(planted.text)
    line = next(number for number, text in enumerate(planted.text.splitlines(), 1) if planted.at in text)
    (component,) = components_of("planted.py")
    report = check_component(component)
    failed = [finding for finding in report.findings if finding.failure]
    assert [finding.check for finding in failed] == [planted.check], f"\n{report}"
    assert failed[0].location == f"planted.py:{line}", f"\n{report}"
    assert planted.remedy in failed[0].failure, f"\n{report}"
    (shown,) = [text for text in str(report).splitlines() if text.startswith("FAIL")]
    assert f"planted.py:{line}: {failed[0].failure}" in shown


@pytest.mark.parametrize("text", [STRATEGY.format(lines="", members=""), OBJECTIVE, PROBE])
def test_without_its_mistake_the_plugin_conforms(text: str, tmp_path: Path) -> None:
    (tmp_path / "sound.py").write_text(text)
    (component,) = components_of(str(tmp_path / "sound.py"))
    report = check_component(component)
    assert report.passed and str(report).endswith("conforms"), f"\n{report}"


def test_every_check_has_a_mistake_that_it_finds() -> None:
    for planted, steps in ((STRATEGIES, STRATEGY_STEPS), (OBJECTIVES, OBJECTIVE_STEPS), (PROBES, PROBE_STEPS)):
        found = {each.check for each in planted}
        missing = {check_name(step.check) for step in steps} - found
        assert missing <= {"repeatability"}, missing
