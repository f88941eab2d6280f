"""A run is of one code: a plugin that was edited since goes on with no run, and stands in no row with its old self."""

import sys
from pathlib import Path

import pytest

from maskbench.core.source_digest import is_same_code, plugin_source_digest
from maskbench.errors import UsageError
from maskbench.executors.worker import WorkerOptions, execute_in_worker
from maskbench.record import RunRecord
from maskbench.runs.execution import Failed
from maskbench.runs.plan import Plan, make_plan
from maskbench.runs.plugin_sources import ensure_same_code_as_others, plugin_sources
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import check_runs, read_if_done, run
from maskbench.strategy import REGISTRY
from tests.helpers.records import record
from tests.helpers.tiny_run import tiny_config

pytestmark = pytest.mark.usefixtures("own_registry")

PLUGIN = '''"""A plugin."""
from helper import SHARE
from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, hide, register


@register("mine")
@dataclass(frozen=True, kw_only=True)
class Mine(Strategy):
    """Hides a share."""

    def __call__(self, images: Tensor, context: Context) -> View:
        count = context.grid.count(SHARE)  # of the patches
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)
'''
COMMENTED = PLUGIN.replace("# of the patches", "# of all\n").replace("Hides a share.", "Hides\n    some.")
EDITED = PLUGIN.replace("context.uniform", "1 - context.uniform")
FAILING = PLUGIN.replace("count = ", "assert context.progress < 0.5 or len(images) != 64\n        count = ")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def load(folder: Path, text: str = PLUGIN, share: float = 0.5) -> None:
    """As another process would, after the files were edited."""
    for known in (REGISTRY._classes, REGISTRY._origins, sys.modules):
        known.pop("mine", None)
    sys.modules.pop("helper", None)
    REGISTRY._plugins.clear()
    (folder / "mine.py").write_text(text)
    (folder / "helper.py").write_text(f"SHARE = {share}\n")
    REGISTRY.load(str(folder / "mine.py"))


def finished(plan: Plan) -> RunRecord:
    """The record of the run, written."""
    origin = REGISTRY.origin(plan.strategy.name)
    made = record().model_copy(
        update={
            "run_id": plan.run_id,
            "strategy": {"name": "mine", "version": 1, "parameters": {}, "distribution": origin},
            "config": plan.config.model_dump(mode="json"),
            "seed": plan.config.seed,
            "environment": {"plugins": plugin_sources(plan)},
        }
    )
    plan.folder.mkdir(parents=True)
    made.write(plan.folder / "record.json")
    return made


def test_a_finished_run_of_other_code_is_not_done_already(folder: Path) -> None:
    load(folder)
    plans = [make_plan(tiny_config(folder / "out", "mine", seed=seed)) for seed in (0, 1)]
    finished(plans[0])
    load(folder, COMMENTED)
    ensure_same_code_as_others(plans[0])
    assert read_if_done(plans[0], Reporter()) is not None, "a comment changes nothing"
    for text, share in ((EDITED, 0.5), (PLUGIN, 0.25)):  # the file itself, and one that it imports
        load(folder, text, share)
        for plan in plans:  # another seed would stand in the same row
            with pytest.raises(UsageError, match=f"{plans[0].folder} was made by other code of strategy mine; --force"):
                ensure_same_code_as_others(plan)
    with pytest.raises(UsageError, match="other code"):
        check_runs([plans[0].config])
    with pytest.raises(UsageError, match="other code"):
        check_runs([plans[1].config], force=True)  # seed 0 would stay as it was
    ensure_same_code_as_others(plans[1], [plans[0].run_id, plans[1].run_id])


def test_an_older_record_knows_the_file_of_its_strategy(folder: Path) -> None:
    load(folder)
    config = tiny_config(folder / "out", "mine", probes="knn")
    older = finished(make_plan(config)).model_copy(update={"environment": {}})
    older.write(make_plan(config).folder / "record.json")
    ensure_same_code_as_others(make_plan(config))
    load(folder, EDITED)
    with pytest.raises(UsageError, match="other code of strategy mine"):
        ensure_same_code_as_others(make_plan(config))


def test_a_checkpoint_of_other_code_is_refused(folder: Path) -> None:
    """A failed run keeps its checkpoint, as a killed one does."""
    load(folder, FAILING)
    config = tiny_config(folder / "out", "mine", probes="knn", train__online_every=100)
    with pytest.raises(Failed):
        run(config, checkpoint_every=0)
    newest = make_plan(config).folder / "checkpoint.pt"
    before = newest.read_bytes()
    load(folder)
    with pytest.raises(UsageError, match=r"checkpoint\.pt is of other code of strategy mine; --force starts afresh"):
        run(config)
    assert newest.read_bytes() == before
    done = run(config, force=True)
    assert done.status == "complete" and done.interruptions == 0
    assert list(done.environment["plugins"]) == ["strategy mine"]


def test_a_worker_notices_that_the_code_is_other_than_the_commands(folder: Path) -> None:
    """A queued run may begin, and a worker that died be replaced, hours after the command."""
    load(folder)
    options = WorkerOptions(plugin_sources=plugin_sources(make_plan(tiny_config(folder / "out", "mine"))))
    load(folder, EDITED)
    result = execute_in_worker(tiny_config(folder / "out", "mine"), options)
    assert result.usage_error is not None and "the code of strategy mine has changed since" in result.usage_error
    assert not (folder / "out").exists()


def test_what_ships_has_its_version_and_no_digest(tmp_path: Path) -> None:
    assert plugin_sources(make_plan(tiny_config(tmp_path, "random"))) == {}


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (COMMENTED, True),
        (PLUGIN.replace("hide(context", "hide(\n            context"), True),
        (EDITED, False),
        (PLUGIN.replace("        return", "        if count:\n            return"), False),
        (PLUGIN.replace('"""Hides a share."""', 'text = "Hides a share."'), False),
    ],
)
def test_the_digest_is_of_what_the_code_does(folder: Path, text: str, same: bool) -> None:
    load(folder)
    before = REGISTRY.source_digest("mine")
    (folder / "mine.py").write_text("what runs is what was imported")
    assert REGISTRY.source_digest("mine") == before is not None
    load(folder, text)
    assert is_same_code(before, REGISTRY.source_digest("mine") or "") is same


def test_the_same_text_under_another_python_is_the_same_code() -> None:
    assert is_same_code("sha256:aa-bb", "sha256:cc-bb") and is_same_code("sha256:aa-bb", "sha256:aa-cc")
    assert not is_same_code("sha256:aa-bb", "sha256:bb-aa")


def test_a_compiled_module_or_one_class_of_a_script_has_a_digest_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "__module__", "__main__")
    assert plugin_source_digest(Plan) != plugin_source_digest(RunRecord)
