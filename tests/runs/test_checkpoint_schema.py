"""Checkpoints that are whole and yet not this run's: one line each, before anything is trained or overwritten."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from maskbench.errors import UsageError
from maskbench.runs.checkpoint import Checkpoints, seal
from maskbench.runs.plan import make_plan
from maskbench.runs.run import run
from maskbench.runtime.interrupt import Interrupted
from tests.helpers.reporters import StoppingReporter
from tests.helpers.tiny_run import tiny_config


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The output folder of a run that was stopped in step 3, and what its checkpoint holds."""
    output = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Interrupted):
        run(tiny_config(output), reporter=StoppingReporter(3), checkpoint_every=0)
    content = Checkpoints(make_plan(tiny_config(output)).folder).load(pytest.fail)
    assert content is not None
    return output, content


def changed(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy in which the value at a dotted path is another one, or is gone where it is None."""
    first, _, rest = path.partition(".")
    copy = {**content, first: changed(content[first], rest, value) if rest else value}
    return {name: each for name, each in copy.items() if each is not None}


DEEP: dict[str, Any] = {}
DEEP["deeper"] = DEEP
UNFITTING: dict[str, tuple[str, object, str]] = {
    "no state": ("state", None, "it has no state"),
    "no identity": ("identity", None, "it has no identity"),
    "an identity that holds itself": ("identity", DEEP, "its identity is not as maskbench writes it"),
    "an environment of text": ("environment", "this machine", "its environment is not"),
    "negative seconds": ("wall_s", -1.0, "its wall_s is not"),
    "infinite seconds": ("watch", {"steps": 1, "total_s": float("inf"), "phases_s": {}}, "its watch is not"),
    "half an interruption": ("interruptions", 0.5, "its interruptions is not"),
    "warnings of numbers": ("warnings", [1], "its warnings is not"),
    "a step before the first": ("state.step", -3, "its state.step is not"),
    "a curve of text": ("state.curve", ["a"], "its state.curve is not"),
    "sums of whole numbers": ("state.ratio_sums", torch.zeros(3, dtype=torch.int64), "its state.ratio_sums is not"),
    "sums of another length": ("state.useless_sums", torch.zeros(5), "its state.useless_sums is not"),
    "no head": ("state.head", None, "its networks or its optimizer are other ones: 'head'"),
    "an empty optimizer": ("state.optimizer", {}, "its networks or its optimizer are other ones"),
}


@pytest.mark.parametrize("what", UNFITTING)
def test_a_checkpoint_that_is_whole_but_does_not_fit_is_one_line(
    what: str, stopped: tuple[Path, dict[str, Any]]
) -> None:
    """Nothing is trained, nothing is overwritten, and nothing is a traceback."""
    (output, content), (path, value, reason) = stopped, UNFITTING[what]
    checkpoints = Checkpoints(make_plan(tiny_config(output)).folder)
    checkpoints.save(changed(content, path, value))
    before = checkpoints.newest.read_bytes()
    with pytest.raises(
        UsageError, match=rf"checkpoint.pt cannot be resumed: {reason}.*; --force starts afr"
    ) as refused:
        run(tiny_config(output))
    assert "\n" not in str(refused.value) and checkpoints.newest.read_bytes() == before
    assert not (checkpoints.newest.parent / "record.json").exists()


def test_weights_and_optimizers_of_other_values_are_one_line(stopped: tuple[Path, dict[str, Any]]) -> None:
    output, content = stopped
    checkpoints = Checkpoints(make_plan(tiny_config(output)).folder)
    head, optimizer = content["state"]["head"], content["state"]["optimizer"]
    name = next(name for name in head if name.endswith("norm.weight"))
    moments = {number: {**own, "exp_avg": torch.zeros(7)} for number, own in optimizer["state"].items()}
    cases = {
        "it has weights that are not finite": {"head": {**head, name: head[name] * torch.nan}},
        "its networks or its optimizer are other ones: .*size mismatch": {"head": {**head, name: torch.ones(7)}},
        "its optimizer is of other weights": {"optimizer": {**optimizer, "state": moments}},
    }
    for reason, parts in cases.items():
        checkpoints.save({**content, "state": {**content["state"], **parts}})
        with pytest.raises(UsageError, match=f"cannot be resumed: {reason}"):
            run(tiny_config(output))


def test_what_is_no_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoints, said = Checkpoints(tmp_path), []
    checkpoints.save({"step": 1})
    checkpoints.save({"step": 2})
    checkpoints.newest.unlink()
    os.mkfifo(checkpoints.newest)
    assert checkpoints.load(said.append) == {"step": 1}
    assert "checkpoint.pt is damaged (it is a pipe, not a file)" in said[0]
    for content, reason in ((b"", "its checksum does not match"), (bytes(seal([1])), "it holds a list")):  # type: ignore[arg-type]
        checkpoints.newest.write_bytes(content)
        assert checkpoints.load(said.append) == {"step": 1} and f"is damaged ({reason})" in said[-1]
    checkpoints.newest.mkdir()
    with pytest.raises(UsageError, match="checkpoint.pt is a folder, where a checkpoint should be; move it away"):
        checkpoints.load(said.append)
