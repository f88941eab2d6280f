"""Every hostile or unlucky input of the corpus ends in a result or in one line; guard.py has the rules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.doors import DOORS

LEAST = 600  # inputs over all doors
_counts: dict[str, int] = {}


@pytest.mark.integration
@pytest.mark.parametrize("door", DOORS)
def test_every_input_ends_in_a_result_or_one_line(door: str, tmp_path: Path) -> None:
    """A fake Ghostscript first on PATH leaves a trace if it is ever started."""
    trace = tmp_path / "started"
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {trace}\n")
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", door], cwd=Path(__file__).parents[2], env=environment,
                          capture_output=True, text=True, timeout=1200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert not trace.exists(), "no file starts a program"
    _counts[door] = int(done.stdout.split(": ")[-1].split(" inputs")[0])
    if _counts.keys() == DOORS.keys():
        assert sum(_counts.values()) >= LEAST
