"""Who works on a run: one process at a time, whatever becomes of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from maskbench.runs import lease as claims
from maskbench.runs.execution import Failed
from maskbench.runs.lease import Busy, hold_lease, is_lost
from maskbench.runs.plan import make_plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import run, run_all
from tests.helpers.foreign_lease import leave_foreign_lease
from tests.helpers.tiny_run import tiny_config

HOLDER = """
import sys, time
from pathlib import Path
from maskbench.runs import lease as claims
claims.LEASE_S = float(sys.argv[2])
with claims.hold_lease(Path(sys.argv[1]), waiting=None) as lease:
    print("held", flush=True)
    while lease.compromise is None:
        time.sleep(0.05)
    print("lost", flush=True)
"""


def holder(folder: Path, lease_s: float = claims.LEASE_S) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), str(lease_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_holder_is_named_and_a_killed_one_makes_room_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        said = f"under way in process {process.pid} on {socket.gethostname()}"
        with pytest.raises(Busy, match=said), hold_lease(tmp_path, waiting=None):
            pass
        process.kill()
        process.wait()
        with hold_lease(tmp_path, waiting=None):
            assert (tmp_path / "running.lock").exists()
    assert not (tmp_path / "running.lock").exists()


def test_waiting_says_for_whom_and_ends_with_the_holder(tmp_path: Path) -> None:
    told: list[str] = []
    with holder(tmp_path) as process:

        def end_it(who: str) -> None:
            told.append(who)
            process.kill()
            process.wait()

        with hold_lease(tmp_path, waiting=end_it):
            pass
    assert len(told) == 1 and "under way in process" in told[0]


def test_a_silent_holder_is_superseded_and_learns_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 1.0)
    with holder(tmp_path, 1.0) as process:
        os.kill(process.pid, signal.SIGSTOP)
        waited: list[str] = []
        with hold_lease(tmp_path, waiting=waited.append):
            assert len(waited) == 1
            os.kill(process.pid, signal.SIGCONT)
            assert process.stdout is not None and process.stdout.readline() == "lost\n"
        assert process.wait(30) == 0


class Robber(Reporter):
    """Takes the lease away in the middle of the training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def step(self, state, loss) -> None:  # type: ignore[no-untyped-def]
        if state.step == 3:
            (self.folder / "running.lock").unlink()
            time.sleep(1.5)  # several heartbeats


def test_a_run_that_was_taken_over_writes_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 0.6)
    config = tiny_config(tmp_path)
    with pytest.raises(Failed, match="lost its hold on the run"):
        run(config, reporter=Robber(make_plan(config).folder))
    assert not (make_plan(config).folder / "record.json").exists()


def test_a_set_takes_over_the_run_of_a_machine_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 1.0)
    configs = [tiny_config(tmp_path, "random", probes="knn"), tiny_config(tmp_path, "gmml", probes="knn")]
    leave_foreign_lease(make_plan(configs[0]).folder)
    assert [record.status for record in run_all(configs)] == ["complete", "complete"]


def test_where_names_cannot_be_exchanged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, where the library breaks no lease: after one and a half times its length this process does."""
    monkeypatch.setattr(claims, "LEASE_S", 0.5)
    monkeypatch.setattr(filelock.SoftFileLease, "_try_break_stale_lock", lambda self: None)
    leave_foreign_lease(tmp_path / "run")
    with hold_lease(tmp_path / "run", waiting=lambda _: None) as lease:
        assert not is_lost(lease)


def test_threads_of_one_process_do_not_share_a_claim(tmp_path: Path) -> None:
    with hold_lease(tmp_path, waiting=None), pytest.raises(Busy), hold_lease(tmp_path, waiting=None):
        pass


def test_who_lost_a_run_leaves_the_winners_record_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, probes="knn")
    folder = make_plan(config).folder

    class Stolen(Reporter):
        """Its disk answers after somebody else took over and finished."""

        def step(self, state, loss) -> None:  # type: ignore[no-untyped-def]
            if state.step == 3:
                (folder / "running.lock").unlink()
                (folder / "record.json").write_text("the winner's")
                raise OSError(2, "No such file or directory", str(folder / "checkpoint.pt"))

    with pytest.raises(Failed):
        run(config, reporter=Stolen())
    assert (folder / "record.json").read_text() == "the winner's"
