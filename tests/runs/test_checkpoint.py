"""Checkpoints: whole or not there, the last two kept, and a run that goes on from one ends with the same numbers."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maskbench import data
from maskbench.errors import UsageError
from maskbench.runs.checkpoint import Checkpoints, Damaged, seal, unseal
from maskbench.runs.execution import Execution
from maskbench.runs.lease import hold_lease
from maskbench.runs.plan import make_plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import forget_runs, run, run_all
from maskbench.runtime.interrupt import Interrupted
from maskbench.runtime.stopwatch import Stopwatch
from tests.helpers.image_files import write_folders
from tests.helpers.reporters import StoppingReporter
from tests.helpers.run_results import comparable_record
from tests.helpers.tiny_run import tiny_config

CONTENT = {
    "step": 3,
    "rates": [1e-3, 2.5],
    "weights": {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.int64)},
}


def same(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two


def test_what_is_sealed_is_unsealed_and_torch_reads_it_too(tmp_path: Path) -> None:
    sealed = bytes(seal(CONTENT))
    assert same(unseal(sealed), CONTENT)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(sealed)
    assert same(torch.load(path, weights_only=True), CONTENT)


def test_every_changed_byte_and_every_cut_is_noticed() -> None:
    sealed = bytes(seal(CONTENT))
    for place in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(Damaged):
            unseal(bytes(changed))
    for length in (0, 1, 63, 64, 65, len(sealed) // 2, len(sealed) - 1):
        with pytest.raises(Damaged):
            unseal(sealed[:length])


def test_nothing_but_tensors_and_values_is_loaded() -> None:
    with pytest.raises(Damaged, match="Weights only"):
        unseal(bytes(seal({"object": Reporter()})))


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    checkpoints, said = Checkpoints(tmp_path), []
    assert checkpoints.load(said.append) is None
    for step in (1, 2, 3):
        checkpoints.save({"step": step})
    assert checkpoints.load(said.append) == {"step": 3}
    assert unseal(checkpoints.previous.read_bytes()) == {"step": 2}
    checkpoints.newest.write_bytes(checkpoints.newest.read_bytes()[:-9])
    assert not said
    assert checkpoints.load(said.append) == {"step": 2}
    assert len(said) == 1 and "checkpoint.pt is damaged (its checksum does not match)" in said[0]
    checkpoints.save({"step": 4})  # after which the damaged one must not have taken the place of the whole one
    assert checkpoints.load(said.append) == {"step": 4} and unseal(checkpoints.previous.read_bytes()) == {"step": 2}
    checkpoints.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("random", {}),
        ("random", {"train__optimizer": "muon"}),
        ("attmask-high", {}),  # a teacher
        ("adios", {}),  # a network of its own
        ("attmask-high", {"objective": "ibot:prototypes=32:hidden=32:bottleneck=16"}),
        ("none", {"objective": "barlow:width=32"}),  # batch norms
        ("none", {"objective": "supervised"}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_crash_anywhere_changes_no_number(tmp_path: Path, strategy: str, changes: dict[str, str]) -> None:
    whole = run(tiny_config(tmp_path / "whole", strategy, **changes))
    config = tiny_config(tmp_path / "crashed", strategy, **changes)
    for step in (2, 4, 5, 7):  # four steps an epoch: within, at its end, at the next one's start
        with pytest.raises(Interrupted):
            run(config, reporter=StoppingReporter(step), checkpoint_every=0)
    reporter = StoppingReporter()
    resumed = run(config, reporter=reporter, checkpoint_every=0)
    assert any("goes on from step 6" in line for line in reporter.said)
    assert comparable_record(resumed) | {"config": None} == comparable_record(whole) | {"config": None}
    assert resumed.interruptions == 4 and whole.interruptions == 0
    assert resumed.metrics["cost/wall_s"] > 0 and resumed.metrics["cost/checkpoint_s"] > 0
    folder = make_plan(config).folder
    assert not list(folder.glob("checkpoint*")) and not list(folder.glob("*.lock"))
    whole_folder = tmp_path / "whole" / "runs" / resumed.run_id
    for name in ("predictions.npz", "masks.png"):
        assert (folder / name).read_bytes() == (whole_folder / name).read_bytes()
    assert same(load_file(folder / "encoder.safetensors"), load_file(whole_folder / "encoder.safetensors"))


def test_a_damaged_checkpoint_falls_back_and_says_so(tmp_path: Path) -> None:
    whole = run(tiny_config(tmp_path / "whole"))
    config = tiny_config(tmp_path / "crashed")
    with pytest.raises(Interrupted):
        run(config, reporter=StoppingReporter(6), checkpoint_every=0)
    newest = make_plan(config).folder / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    reporter = StoppingReporter()
    again = comparable_record(run(config, reporter=reporter))
    assert again | {"config": None} == comparable_record(whole) | {"config": None}
    assert any("checkpoint.pt is damaged" in line for line in reporter.said)
    assert any("goes on from step 4" in line for line in reporter.said)


def test_another_configurations_checkpoint_is_refused_with_what_differs(tmp_path: Path) -> None:
    config, other = tiny_config(tmp_path), tiny_config(tmp_path, train__lr=5e-4)
    with pytest.raises(Interrupted):
        run(config, reporter=StoppingReporter(3), checkpoint_every=0)
    there = make_plan(other).folder
    there.mkdir()
    (make_plan(config).folder / "checkpoint.pt").rename(there / "checkpoint.pt")
    with pytest.raises(UsageError, match=r"another configuration \(train.lr is 0.0005 here, 0.002 there\)"):
        run(other)
    assert (there / "checkpoint.pt").exists() and not (there / "record.json").exists()
    assert run(other, force=True).status == "complete"


def test_force_starts_afresh(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tiny_config(tmp_path), reporter=StoppingReporter(3), checkpoint_every=0)
    reporter = StoppingReporter()
    assert run(tiny_config(tmp_path), reporter=reporter, force=True).interruptions == 0
    assert not any("goes on" in line for line in reporter.said)


def test_a_diverged_run_names_its_last_good_checkpoint(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train__lr=1e30, train__warmup_epochs=2)
    record = run(config, checkpoint_every=0)
    assert record.status == "diverged" and record.error is not None
    content = Checkpoints(make_plan(config).folder).load(pytest.fail)
    assert content is not None and f"of step {content['state']['step']}" in record.error
    assert all(value.isfinite().all() for value in content["state"]["head"].values())


def test_a_resumed_run_says_that_it_moved(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tiny_config(tmp_path), reporter=StoppingReporter(3), checkpoint_every=0)
    checkpoints = Checkpoints(make_plan(tiny_config(tmp_path)).folder)
    content = checkpoints.load(pytest.fail)
    assert content is not None
    content["environment"]["threads"] = 77
    checkpoints.save(content)
    (warning,) = [each for each in run(tiny_config(tmp_path)).warnings if "trivial" not in each]
    assert "resumed elsewhere" in warning and "threads is" in warning and "77 there" in warning


def test_saving_what_cannot_be_written_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with contextlib.suppress(OSError):
        checkpoints.save({"step": 2})
    monkeypatch.undo()
    assert checkpoints.load(pytest.fail) == {"step": 1}


def test_checkpoints_are_rarer_where_they_are_slow_to_write(tmp_path: Path) -> None:
    def interval(every_s: float | None, writing_s: float) -> float:
        return Execution(*[None] * 7, every_s).checkpoint_interval(writing_s)  # type: ignore[arg-type]

    assert [interval(None, writing_s) for writing_s in (0.0, 2.9, 15.0)] == [300.0, 300.0, 1500.0]
    assert interval(10.0, 15.0) == 10.0 and interval(0.0, 15.0) == 0.0


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", "train", 0, 300)
    write_folders(tmp_path / "photos", "test", 300, 30)
    config = tiny_config(tmp_path / "out", data__dataset=str(tmp_path / "photos"), probes="knn")
    with pytest.raises(Interrupted):
        run(config, reporter=StoppingReporter(3), checkpoint_every=0)
    write_folders(tmp_path / "photos", "train", 600, 3)
    data.load_dataset.cache_clear()  # as in a new process
    with pytest.raises(UsageError, match="another configuration .data_fingerprint is"):
        run(config)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tiny_config(tmp_path), reporter=StoppingReporter(3), checkpoint_every=0)
    checkpoints = Checkpoints(make_plan(tiny_config(tmp_path)).folder)
    content = checkpoints.load(pytest.fail)
    assert content is not None
    checkpoints.save({**content, "format": 0})
    with pytest.raises(UsageError, match="written by another version of maskbench; --force starts afresh"):
        run(tiny_config(tmp_path))


@pytest.mark.parametrize("step", [3, 8])
def test_weights_that_are_no_numbers_are_never_good(tmp_path: Path, step: int) -> None:
    """Also where the loss, which is that of before the update, still is one; also after the last step."""

    class Poisoner(Reporter):
        def step(self, state, loss) -> None:  # type: ignore[no-untyped-def]
            if state.step == step:
                next(state.head.parameters()).data.fill_(float("nan"))

    record = run(tiny_config(tmp_path, probes="knn"), reporter=Poisoner(), checkpoint_every=0)
    assert record.status == "diverged" and record.error is not None
    assert f"the last good checkpoint is of step {step - 1}" in record.error


def test_a_signal_in_the_last_reading_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maskbench.runs import execution

    class Reading(execution.OnlineKnn):
        def __call__(self, encoder):  # type: ignore[no-untyped-def]
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(encoder)

    monkeypatch.setattr(execution, "OnlineKnn", Reading)
    config = tiny_config(tmp_path, train__online_every=2, probes="knn")
    with pytest.raises(Interrupted) as asked:
        run(config)
    assert asked.value.signal == signal.SIGTERM
    monkeypatch.undo()
    assert run(config).interruptions == 1


def test_force_forgets_a_whole_set_before_it_begins(tmp_path: Path) -> None:
    configs = [tiny_config(tmp_path, name, probes="knn") for name in ("random", "gmml")]
    run_all(configs)
    with pytest.raises(Interrupted):
        run_all(configs, force=True, reporter=StoppingReporter(3))
    reporter = StoppingReporter()
    run_all(configs, reporter=reporter)  # the command that is printed has no --force
    assert not any("is done already" in line for line in reporter.said)


def test_force_forgets_nothing_where_one_is_under_way(tmp_path: Path) -> None:
    configs = [tiny_config(tmp_path, name, probes="knn") for name in ("random", "gmml")]
    run_all(configs)
    folders = [make_plan(config).folder for config in configs]
    with hold_lease(folders[1], waiting=None), pytest.raises(UsageError, match=r"stop it first, or leave out --force"):
        forget_runs(map(make_plan, configs))
    assert all((folder / "record.json").exists() for folder in folders)


def test_what_was_measured_before_an_interruption_outlives_the_warm_up_after_it() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.load_state_dict({"steps": 7, "total_s": 3.0, "phases_s": {"mask": 1.0}})
    watch.resume()
    watch.steps += 2
    with watch.phase("mask"):
        pass
    watch.restart()
    watch.pause()
    state = watch.state_dict()
    assert state["steps"] == 7 and state["phases_s"] == {"mask": 1.0}
    assert state["total_s"] == pytest.approx(3.0, abs=0.1)
