"""Suites for tests of runs on clusters, and the results of the same suite without a cluster."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.helpers.command_line import SMALL, run_command
from tests.helpers.run_results import comparable_results


def write_suite(folder: Path, strategies: list[str], seeds: str, *more: str) -> list[str]:
    """The arguments of a suite in `folder` with one control, whose results are chaos's to compare: in results/quick."""
    content = {"strategies": strategies, "seeds": seeds, "controls": ["random-init"]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    output = ["--output", "results/quick", "--checkpoint-every", "0"]
    return ["run", "--suite", "./mine.yaml", "--probes", "knn", *SMALL, *output, *more]


def run_reference(folder: Path, arguments: list[str]) -> dict[str, str]:
    """By run, all that must not depend on where and in how many goes it was done: done here, one after another."""
    folder.mkdir()
    (folder / "mine.yaml").write_bytes((folder.parent / "mine.yaml").read_bytes())
    arguments = list(arguments)
    del arguments[arguments.index("--checkpoint-every") :][:2]
    code, said = run_command(folder, *arguments, timeout=400)
    assert code == 0, said
    return comparable_results(folder)


def ray_token_environment(folder: Path) -> dict[str, str]:
    """The environment of a Ray cluster whose secret is a file in `folder`; no token in a home is read or made."""
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}


def wait_until(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Wait; AssertionError with `otherwise` where it takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)
