"""Who works on a run: one process at a time, whatever becomes of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskbench import claim as claims
from maskbench.attempt import Failed
from maskbench.claim import Busy, claim
from maskbench.pipeline import run
from maskbench.plan import plan
from maskbench.reporter import Reporter
from tests.tiny import tiny

HOLDER = """
import sys, time
from pathlib import Path
from maskbench import claim as claims
claims.LEASE_S = float(sys.argv[2])
with claims.claim(Path(sys.argv[1]), waiting=None) as lease:
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
        with pytest.raises(Busy, match=said), claim(tmp_path, waiting=None):
            pass
        process.kill()
        process.wait()
        start = time.monotonic()
        with claim(tmp_path, waiting=None):
            assert (tmp_path / "running.lock").exists()
        assert time.monotonic() - start < 2
    assert not (tmp_path / "running.lock").exists()


def test_waiting_says_for_whom_and_ends_with_the_holder(tmp_path: Path) -> None:
    told: list[str] = []
    with holder(tmp_path) as process:

        def end_it(who: str) -> None:
            told.append(who)
            process.kill()
            process.wait()

        with claim(tmp_path, waiting=end_it):
            pass
    assert len(told) == 1 and "under way in process" in told[0]


def test_a_silent_holder_is_superseded_and_learns_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 1.0)
    with holder(tmp_path, 1.0) as process:
        os.kill(process.pid, signal.SIGSTOP)
        start = time.monotonic()
        with claim(tmp_path, waiting=lambda _: None):
            assert 0.9 < time.monotonic() - start < 20
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
    config = tiny(tmp_path)
    with pytest.raises(Failed, match="another process took it over"):
        run(config, reporter=Robber(plan(config).folder))
    assert not (plan(config).folder / "record.json").exists()
