"""What goes wrong inside a run: one line with the remedy, a row in the table, and the other runs go on."""

import errno
import os
from pathlib import Path

import pytest
import torch

from maskbench.errors import UsageError
from maskbench.executors.worker import WorkerOptions, execute_in_worker
from maskbench.record import read_record
from maskbench.runs import run as runs
from maskbench.runs.execution import Execution, Failed
from maskbench.runs.plan import make_plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import run, run_all
from maskbench.runtime.atomic_files import describe_os_error, remove_partial_files, write_atomically
from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, hide, register
from tests.helpers.command_line import SMALL, maskbench
from tests.helpers.tiny_run import tiny_config


@dataclass(frozen=True, kw_only=True)
class Moody(Strategy):
    """Works until the fourth step."""

    def __call__(self, images: Tensor, context: Context) -> View:
        if len(images) == 64 and context.progress >= 3 / 8:
            self.fail()
        count = context.grid.count(0.5)
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)

    def fail(self) -> None:
        raise KeyError("the moon")


class Told(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.usefixtures("own_registry")
def test_a_broken_strategy_fails_its_run_alone(tmp_path: Path) -> None:
    register("moody")(Moody)
    reporter = Told()
    configs = [tiny_config(tmp_path, name, probes="knn") for name in ("moody", "random")]
    records = run_all(configs, reporter=reporter)
    assert [record.status for record in records] == ["failed", "complete"]
    folder = make_plan(configs[0]).folder
    assert any(line.startswith(f"{folder.name} failed: KeyError at step 3: 'the moon' (") for line in reporter.said), (
        reporter.said
    )
    stored = read_record(folder / "record.json")
    assert stored.status == "failed" and stored.error is not None and "the moon" in stored.error
    assert "in fail" in (folder / "traceback.txt").read_text()
    table = maskbench("table", str(tmp_path), cwd=tmp_path)
    assert table.code == 0 and "moody" in table.out and "failed" in table.out


@pytest.mark.usefixtures("own_registry")
def test_a_failed_run_is_tried_again_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register("moody")(Moody)
    config = tiny_config(tmp_path, "moody", probes="knn")
    with pytest.raises(Failed, match="the moon"):
        run(config, checkpoint_every=0)
    monkeypatch.setattr(Moody, "fail", lambda self: None)
    record = run(config)
    assert record.status == "complete" and record.interruptions == 1


def test_data_that_have_become_unreadable_fail_their_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise UsageError("7.png: Input/output error; repair it")

    monkeypatch.setattr(Execution, "run_probes", read)
    record, *_ = run_all(
        [tiny_config(tmp_path, name, probes="knn") for name in ("random", "gmml")], reporter=(told := Told())
    )
    assert record.status == "failed" and record.error == "7.png: Input/output error; repair it"
    assert sum("failed: 7.png" in line for line in told.said) == 2, "the second is tried as well"


def test_a_worker_tells_what_kept_a_run_from_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("the moon")

    monkeypatch.setattr(runs, "start_afresh", fail)
    assert (
        execute_in_worker(tiny_config(tmp_path), WorkerOptions()).failure == "it could not begin: KeyError: 'the moon'"
    )
    monkeypatch.setattr(runs, "start_afresh", lambda *_: torch.empty(2**52))
    assert "could not begin: out of memory; lower --jobs" in str(
        execute_in_worker(tiny_config(tmp_path), WorkerOptions()).failure
    )


@pytest.mark.usefixtures("own_registry")
def test_a_strategy_that_cannot_be_built_is_refused_and_listed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(UNBUILT)
    done = maskbench("run", "--strategy", "unbuilt", "--plugin", "mine.py", *SMALL, cwd=tmp_path)
    assert done.code == 2 and "unbuilt with vit_tiny_patch16_224 cannot be built: KeyError: 'the moon'" in done.err
    assert "Traceback" not in done.err and not (tmp_path / "results").exists()
    listed = maskbench("list", "pairs", "--plugin", "mine.py", cwd=tmp_path)
    assert listed.code == 0 and "unbuilt" in listed.err and "the moon" in listed.err and "gmml" in listed.out


UNBUILT = '''"""A strategy that cannot be built."""

from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, register


@register("unbuilt")
@dataclass(frozen=True, kw_only=True)
class Unbuilt(Strategy):
    """Raises."""

    def build(self, sample, grid, dim):
        raise KeyError("the moon")

    def __call__(self, images: Tensor, context: Context) -> View:
        return View(images)
'''


@pytest.mark.usefixtures("own_registry")
def test_too_little_memory_suggests_what_takes_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register("moody")(Moody)
    monkeypatch.setattr(Moody, "fail", lambda self: torch.empty(2**52))  # torch's own error, four petabytes
    tried = "try --batch-size 32, --set train.accumulate=2, --precision bf16 or a smaller --model"
    with pytest.raises(Failed, match=f"out of memory at step 3 in batches of 64; {tried}"):
        run(tiny_config(tmp_path, "moody", probes="knn"))


def test_diverged_is_a_row_in_the_table(tmp_path: Path) -> None:
    run(tiny_config(tmp_path, train__lr=1e30, probes="knn"))
    table = maskbench("table", str(tmp_path), cwd=tmp_path)
    assert table.code == 0 and "diverged" in table.out


def test_a_run_that_diverged_is_explained_once(tmp_path: Path) -> None:
    """At its end; below the table stands which runs are not complete, and how to read why."""
    config = tiny_config(tmp_path / "out", train__lr=1e30, probes="knn").model_dump_json()
    (tmp_path / "mine.yaml").write_text(config)
    done = maskbench("run", "--config", "mine.yaml", "--output", "out", cwd=tmp_path)
    assert done.code == 1 and done.err.count("the loss") == 1, done.err
    assert "not complete: random-" in done.err and " diverged; maskbench status out says why\n" in done.err
    assert "the loss" in maskbench("status", "out", cwd=tmp_path).out


def test_files_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "one")
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match=r"a\.json") as caught:
            patch.setattr(os, step, failing)
            write_atomically(path, "two")
        assert caught.value.errno == errno.ENOSPC
        assert path.read_text() == "one" and [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert describe_os_error(caught.value) == f"{path}: the disk is full: free some space"
    with pytest.raises(FileNotFoundError, match="gone"):
        write_atomically(tmp_path / "gone" / "a.json", "one")  # a folder that vanished is not made anew
    (tmp_path / ".a.json.x.partial").touch()
    remove_partial_files(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def failing(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_results_folder_that_vanishes_is_said(tmp_path: Path) -> None:
    class Remover(Reporter):
        def step(self, state, loss) -> None:  # type: ignore[no-untyped-def]
            if state.step == 2:
                (tmp_path / "out").rename(tmp_path / "elsewhere")

    config = tiny_config(tmp_path / "out", probes="knn")
    with pytest.raises(Failed, match="the folder is gone: bring it back, or choose another --output"):
        run(config, reporter=Remover(), checkpoint_every=0)
    assert not (tmp_path / "out").exists()


def test_unreadable_and_newer_records_are_not_overwritten(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, probes="knn")
    path = make_plan(config).folder / "record.json"
    path.parent.mkdir(parents=True)
    for content, message in (("{", "not a readable record"), ('{"schema_version": 99}', "schema 99 is newer than 1")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            run(config)
        assert path.read_text() == content
