"""benchmarks/on_gpu.sh with a stand-in for Python: what is done again after a call that was killed, and what is not."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "on_gpu.sh"
PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
    *"-m gpu"*) echo "1 failed"; exit 1 ;;
    *NAMES*) echo block random ;;
    *strategies*) echo half; [ -e well ] || exit 137; echo whole ;;
    *"[random]"*) echo timed; [ -e well ] || exit 137 ;;
    *run*) mkdir -p out/smoke; [ -e well ] || exit 143 ;;
    *) echo timed ;;
esac
"""


def called(folder: Path, seconds: int) -> tuple[int, list[str]]:
    """The exit status and what Python was called for."""
    (folder / "calls").write_text("")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", SCRIPT, "smoke", str(seconds), "out"], cwd=folder, env=environment, capture_output=True, timeout=60
    )
    return done.returncode, (folder / "calls").read_text().splitlines()


def test_every_call_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    out = tmp_path / "out"
    code, calls = called(tmp_path, 100)
    assert code == 143 and len(calls) == 7, "nothing keeps the suite from being reached"
    assert not (out / "strategies.json").exists() and not (out / "end_to_end-random.txt").exists()
    (tmp_path / "well").touch()
    code, calls = called(tmp_path, 100)
    assert code == 0 and [call.split()[2] for call in calls] == ["bench", "benchmarks.test_end_to_end", "-q", "run"]
    assert (out / "strategies.json").read_text() == "half\nwhole\n"
    assert (out / "tests.txt").read_text() == "1 failed\n"
    assert called(tmp_path, 0)[0] == 143, "no time, and nothing undone but the suite"
    packed = subprocess.run(["tar", "-tzf", out / "results.tar.gz"], capture_output=True, text=True).stdout.split()
    timed = {f"{name}.txt" for name in ("end_to_end-block", "end_to_end-random", "images_per_second")}
    assert set(packed) == timed | {"tests.txt", "strategies.json", "smoke/"}
