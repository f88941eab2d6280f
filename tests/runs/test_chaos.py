"""Kills and faults, a few of each; `make chaos` does all (docs/reliability.md says what it found)."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.integration
def test_kills_and_faults_change_no_number(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.chaos", "--quick"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same numbers") == 6, done.stdout
