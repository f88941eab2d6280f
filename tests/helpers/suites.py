"""The command, its suites and what became of them, for tests of runs on clusters."""

import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tests.cli.test_main import SMALL
from tests.helpers.chaos import results


def suite(folder: Path, strategies: list[str], seeds: str, *more: str) -> list[str]:
    """The arguments of a suite in `folder` with one control, whose results are chaos's to compare: in results/quick."""
    content = {"strategies": strategies, "seeds": seeds, "controls": ["random-init"]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    output = ["--output", "results/quick", "--checkpoint-every", "0"]
    return ["run", "--suite", "./mine.yaml", "--probes", "knn", *SMALL, *output, *more]


def begun(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """The command in a process that heeds Ctrl-C, in a session of its own; one thread, as a cluster gives a run."""
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    whole = [sys.executable, "-m", "maskbench", *arguments]
    return subprocess.Popen(
        whole, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed,
        start_new_session=True, env={**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(folder: Path, *arguments: str, timeout: float, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and stderr of the command; killed with all that it started where it takes longer."""
    with begun(folder, *arguments, env=env) as process:
        try:
            _, said = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return process.returncode, said


def reference(folder: Path, arguments: list[str]) -> dict[str, str]:
    """By run, all that must not depend on where and in how many goes it was done: done here, one after another."""
    folder.mkdir()
    (folder / "mine.yaml").write_bytes((folder.parent / "mine.yaml").read_bytes())
    arguments = list(arguments)
    del arguments[arguments.index("--checkpoint-every") :][:2]
    code, said = finished(folder, *arguments, timeout=400)
    assert code == 0, said
    return results(folder)


def own_token(folder: Path) -> dict[str, str]:
    """The environment of a Ray cluster whose secret is a file in `folder`; no token in a home is read or made."""
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}


def interruptions(folder: Path) -> dict[str, int]:
    """By run, how often it was resumed."""
    paths = folder.glob("results/quick/runs/*/record.json")
    return {path.parent.name: json.loads(path.read_text())["interruptions"] for path in paths}


def until(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Wait; AssertionError with `otherwise` where it takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)
