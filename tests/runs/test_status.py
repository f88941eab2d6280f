"""`maskbench status`: what the files of a results folder say of its runs, from any machine."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskbench.errors import UsageError
from maskbench.executors.placement import Placement
from maskbench.executors.slurm import parse_time_limit
from maskbench.runs import live_status, status
from maskbench.runs.lease import hold_lease
from maskbench.runs.live_status import StatusReporter, Ticket, issue_tickets
from maskbench.runs.plan import make_plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import run
from maskbench.runtime.cpu import core_count
from maskbench.runtime.slurm_queue import Job
from tests.helpers.command_line import maskbench
from tests.helpers.foreign_lease import leave_foreign_lease
from tests.helpers.records import record
from tests.helpers.tiny_run import tiny_config


def runs(folder: Path) -> dict[str, status.Status]:
    return {each.run_id: each for each in status.read_statuses(folder)}


def made(folder: Path, run_id: str) -> Path:
    path = folder / "runs" / run_id
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_record(folder: Path, run_id: str, **changes: Any) -> None:
    record("random", run_id=run_id, **changes).write(made(folder, run_id) / "record.json")


def nobody() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def test_every_state_is_told_from_files(tmp_path: Path) -> None:
    here = socket.gethostname()
    write_record(tmp_path, "random-done-s0")
    write_record(tmp_path, "random-failed-s0", status="failed", error="boom")
    write_record(tmp_path, "random-diverged-s0", status="diverged", error="nan")
    (made(tmp_path, "broken-1-s0") / "record.json").write_text("{")
    (made(tmp_path, "saved-1-s0") / "checkpoint.pt").write_bytes(b"")
    Ticket("local", here, os.getpid()).write(made(tmp_path, "asked-1-s0"))
    Ticket("ray", "another-machine", 1).write(made(tmp_path, "asked-2-s0"))
    Ticket("local", here, nobody()).write(made(tmp_path, "orphan-1-s0"))
    write_record(tmp_path, "random-again-s0", status="failed", error="boom")
    Ticket("local", here, os.getpid()).write(made(tmp_path, "random-again-s0"))
    leave_foreign_lease(tmp_path / "runs" / "far-1-s0")
    leave_foreign_lease(tmp_path / "runs" / "silent-1-s0")
    os.utime(tmp_path / "runs" / "silent-1-s0" / "running.lock", (1, 1))
    (tmp_path / "trials" / "runs" / "trial-1-s9").mkdir(parents=True)
    with hold_lease(made(tmp_path, "near-1-s0"), waiting=None):
        content = {"phase": "training", "step": 30, "steps": 120, "left_s": 90.0}
        (tmp_path / "runs" / "near-1-s0" / "progress.json").write_text(json.dumps(content))
        found = runs(tmp_path)
        shown = maskbench("status", str(tmp_path), cwd=tmp_path)
        machine = maskbench("status", str(tmp_path), "--json", cwd=tmp_path)
    assert {run_id: each.state for run_id, each in found.items()} == {
        "trial-1-s9": "interrupted", "random-again-s0": "queued", "asked-1-s0": "queued", "asked-2-s0": "queued",
        "broken-1-s0": "failed", "random-diverged-s0": "failed", "random-done-s0": "done",
        "random-failed-s0": "failed", "far-1-s0": "running", "near-1-s0": "running",
        "orphan-1-s0": "interrupted", "saved-1-s0": "interrupted", "silent-1-s0": "interrupted",
    }  # fmt: skip
    near = found["near-1-s0"]
    assert (near.step, near.steps, near.left_s, near.where) == (30, 120, 90.0, f"process {os.getpid()} on {here}")
    assert found["random-failed-s0"].note == "boom" and "silent" in found["silent-1-s0"].note
    assert "on another-machine" in found["far-1-s0"].where
    assert "from its checkpoint" in found["saved-1-s0"].note and "from the start" in found["orphan-1-s0"].note
    assert shown.code == 0 and shown.out.endswith("13 runs: 2 running, 3 queued, 4 interrupted, 3 failed, 1 done\n")
    assert "25%" in shown.out and "1.5" in shown.out
    assert {each["run_id"]: each["state"] for each in json.loads(machine.out)}["far-1-s0"] == "running"


@pytest.mark.parametrize(
    ("queue", "state", "note"),
    [
        ({"17_3": Job("PENDING", "Resources", "")}, "queued", "Resources"),
        ({"17_3": Job("RUNNING", "None", "node7")}, "running", "running"),
        ({"17_4": Job("PENDING", "Resources", "")}, "interrupted", "from the start"),
        (None, "queued", "no Slurm answers"),
    ],
)
def test_a_job_is_where_the_queue_says(tmp_path: Path, queue: dict[str, Job] | None, state: str, note: str) -> None:
    Ticket("slurm", job="17_3").write(tmp_path)
    found = status.read_status(tmp_path, lambda: queue)
    assert found.state == state and note in found.note


def test_a_run_publishes_how_far_it_is_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_status, "EVERY_S", 0.0)
    config = tiny_config(tmp_path, probes="knn")
    seen: list[status.Status] = []

    class Onlooker(Reporter):
        """Another terminal."""

        def epoch(self, row) -> None:  # type: ignore[no-untyped-def]
            seen.extend(status.read_statuses(tmp_path))

    with issue_tickets([make_plan(config)], "local"):
        (queued,) = status.read_statuses(tmp_path)
        run(config, reporter=StatusReporter(Onlooker()))
    assert queued.state == "queued"
    assert [(each.state, each.step, each.steps) for each in seen] == [("running", 4, 8), ("running", 8, 8)]
    (done,) = status.read_statuses(tmp_path)
    assert done.state == "done"
    assert not [*tmp_path.glob("**/progress.json"), *tmp_path.glob("**/ticket.json")]


def test_what_was_announced_and_not_begun_leaves_nothing_but_a_jobs_ticket(tmp_path: Path) -> None:
    plans = [make_plan(tiny_config(tmp_path, seed=seed)) for seed in (0, 1)]
    Ticket("slurm", job="5_0").write(plans[0].folder)
    with issue_tickets(plans, "slurm"):
        assert Ticket.read(plans[1].folder) is not None
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [plans[0].run_id]
    assert Ticket.read(plans[0].folder) == Ticket("slurm", job="5_0")


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    done = maskbench("status", "nowhere", cwd=tmp_path)
    assert done.code == 2 and "no results folder nowhere" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"on": "rai"}, "Did you mean ray"),
        ({"gpus_per_run": 1.0}, "--gpus-per-run is for --on ray or slurm"),
        ({"on": "ray", "partition": "a"}, "--partition is for --on slurm"),
        ({"on": "slurm", "gpus_per_run": 0.25}, "Slurm gives whole GPUs"),
        ({"on": "slurm", "slurm": ["account"]}, "write KEY=VALUE"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=message):
        Placement(**flags)


def test_runs_for_gpus_are_planned_where_there_is_none(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, system__precision="auto", system__device="auto")
    there = Placement("slurm", gpus_per_run=1).resolve_auto(config)
    assert there.system.precision == "bf16" and there.system.attention == "fused"
    assert make_plan(there).run_id == make_plan(make_plan(there).config).run_id
    with pytest.raises(UsageError, match="needs --gpus-per-run"):
        Placement("ray", gpus_per_run=0).resolve_auto(tiny_config(tmp_path, system__device="cuda"))


def test_a_run_decodes_with_the_cores_that_it_has(tmp_path: Path) -> None:
    """Not with those of the machine where the command is given, nor with all of them where others run beside it."""
    for place, workers in ((Placement("slurm", cpus_per_run=3), 3), (Placement(jobs=2), max(1, core_count() // 2))):
        assert place.resolve_auto(tiny_config(tmp_path)).system.workers == workers
        assert place.resolve_auto(tiny_config(tmp_path, system__workers=7)).system.workers == 7


def test_where_a_gpu_is_asked_for_each_run_has_one(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, system__device="cuda", system__precision="auto")
    assert Placement("slurm").resources(config).gpus == 1.0
    assert Placement("slurm").resolve_auto(config).system.precision == "bf16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("4:00:00", 240), ("1-12", 2160), ("1-12:30", 2190), ("0-0:0:30", 1)],
)
def test_times_are_those_of_sbatch(text: str, expected: int) -> None:
    assert parse_time_limit(text) == expected
