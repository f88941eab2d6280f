"""The command `maskbench` as users meet it: arguments in; exit code, output and errors out."""

import contextlib
import functools
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from maskbench.cli.main import main

# Flags of a run of two steps on 100 images of 16 px.
SMALL = [
    *("--limit", "100", "--epochs", "1", "--warmup-epochs", "0", "--batch-size", "50", "--img-size", "16"),
    *("--device", "cpu", "--precision", "fp32"),
    *("--set", "model.kwargs={embed_dim: 32, depth: 1, num_heads: 2}"),
]


class Done(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str


def maskbench_anew(*arguments: str, cwd: Path, **environment: str) -> Done:
    """`maskbench` with these environment variables; plugins are searched again. Needs the fixture `own_registry`."""
    from maskbench.strategy import REGISTRY

    shipped = {name for name, origin in REGISTRY._origins.items() if origin.startswith("maskbench ")}
    for known in (REGISTRY._classes, REGISTRY._origins):
        for name in known.keys() - shipped:
            del known[name]
    for known in (REGISTRY._installed, REGISTRY._plugins, REGISTRY.broken):
        known.clear()
    REGISTRY._discovered = False
    for name in [name for name, module in sys.modules.items() if _lies_in(module, cwd)]:
        del sys.modules[name]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        if "PYTHONPATH" in environment:
            patch.syspath_prepend(environment["PYTHONPATH"])
        return maskbench(*arguments, cwd=cwd)


def _lies_in(module: object, folder: Path) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(folder))


def maskbench(*arguments: str, cwd: Path) -> Done:
    """Runs the command in this process, which is fast; `maskbench_process` starts a real one."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        patch.setattr(sys, "argv", ["maskbench", *arguments])
        main()
    return Done(int(left.value.code or 0), out.getvalue(), err.getvalue())


def maskbench_process(*arguments: str, cwd: Path) -> Done:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-m", "maskbench", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def wait_for_words(process: subprocess.Popen[str], words: str) -> None:
    """Reads stderr up to the line that contains `words`."""
    assert process.stderr is not None
    while words not in (line := process.stderr.readline()):
        assert line, f"{words!r} was never said"


def start_command(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Starts the command, in its own session, with one thread and with the default reaction to Ctrl-C."""
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    whole = [sys.executable, "-m", "maskbench", *arguments]
    return subprocess.Popen(
        whole, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed,
        start_new_session=True, env={**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run_command(folder: Path, *arguments: str, timeout: float, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and stderr of the command, which is killed after `timeout` seconds."""
    with start_command(folder, *arguments, env=env) as process:
        try:
            _, said = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return process.returncode, said
