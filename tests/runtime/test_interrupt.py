"""Stopped by Ctrl-C, SIGTERM or SIGHUP: saved, said how to go on, and gone on from to the same numbers."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maskbench.cli.shared_options import print_resume_command
from maskbench.record import RunRecord, read_record
from maskbench.runtime.interrupt import Interrupted, catch_stop_signals
from tests.helpers.command_line import wait_for_words
from tests.helpers.run_results import comparable_record

LONG = ["--epochs", "60", "--limit", "128", "--batch-size", "32", "--warmup-epochs", "0", "--probes", "knn"]
LONG += ["--img-size", "16", "--device", "cpu", "--precision", "fp32"]
LONG += ["--set", "model.kwargs={embed_dim: 32, depth: 1, num_heads: 2}", "--set", "train.online_every=100"]


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`maskbench run` in a process that heeds Ctrl-C, which jobs in a script's background would ignore."""
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-m", "maskbench", "run", *LONG, *arguments]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def the_record(folder: Path, strategy: str) -> RunRecord:
    (path,) = folder.glob(f"results/quick/runs/{strategy}-*/record.json")
    return read_record(path)


@pytest.mark.integration
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with started(tmp_path, "--strategy", "random") as process:
        wait_for_words(process, "240 steps of 32")
        process.send_signal(number)
        assert process.stderr is not None
        rest = process.stderr.read()
        assert process.wait(60) == code
    last = rest.strip().splitlines()[-1]
    assert "is saved at step" in last and "of 240; to go on: maskbench run --epochs 60" in last
    assert "Traceback" not in rest
    assert not list(tmp_path.glob("**/*.lock"))
    with started(tmp_path, "--strategy", "random") as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(120) == 0
    assert "goes on from step" in said
    whole = tmp_path / "whole"
    whole.mkdir()
    with started(whole, "--strategy", "random") as process:
        process.communicate()
    resumed, uninterrupted = the_record(tmp_path, "random"), the_record(whole, "random")
    assert json.dumps(comparable_record(resumed)) == json.dumps(comparable_record(uninterrupted))
    assert (resumed.interruptions, uninterrupted.interruptions) == (1, 0)


@pytest.mark.integration
def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with started(
        tmp_path, "--strategy", "random", "--set", "train.batch_size=128", "--model", "vit_large_patch16_224"
    ) as p:
        wait_for_words(p, "steps of 128")  # each of them takes many seconds
        p.send_signal(signal.SIGINT)
        wait_for_words(p, "once more stops at once")
        p.send_signal(signal.SIGINT)
        assert p.stderr is not None
        rest = p.stderr.read()
        assert p.wait(60) == 130
    assert "maskbench: stopped; to go on: maskbench run" in rest and "Traceback" not in rest
    assert not list(tmp_path.glob("**/checkpoint*.pt"))


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped, catch_stop_signals() as received:
        assert received() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert received() == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before, "the second is not caught"
    assert stopped.value.signal == signal.SIGTERM, "a signal that nobody acted on is not lost"
    assert signal.getsignal(signal.SIGTERM) == before


def test_sighup_is_a_signal_to_stop_but_under_nohup() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(Interrupted) as stopped, catch_stop_signals():
        os.kill(os.getpid(), signal.SIGHUP)
    assert stopped.value.signal == signal.SIGHUP and signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_stop_signals() as received, print_resume_command():
            os.kill(os.getpid(), signal.SIGHUP)
            assert received() is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_outside_a_step_signals_leave_with_the_command_that_resumes(number: signal.Signals) -> None:
    with pytest.raises(Interrupted, match="to go on: maskbench") as stopped, print_resume_command():
        os.kill(os.getpid(), number)
    assert stopped.value.signal == number


def test_in_a_thread_signals_are_left_alone() -> None:
    found: list[object] = []

    def look() -> None:
        with catch_stop_signals() as received:
            found.append((received(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(None, signal.getsignal(signal.SIGTERM))]


@pytest.mark.integration
def test_a_reader_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    """`maskbench run 2>&1 | tee log` and Ctrl-C, which ends tee as well."""
    with started(tmp_path, "--strategy", "random") as process:
        wait_for_words(process, "240 steps of 32")
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert list(tmp_path.glob("results/quick/runs/random-*/checkpoint.pt"))
    assert not list(tmp_path.glob("results/quick/runs/random-*/record.json"))
