"""stdout that is full or closed, stderr that is closed, and Ctrl-C before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -m maskbench"


def shell(line: str, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--version >/dev/full", "cannot write to stdout: No space left on device"),
        ("--help >/dev/full", "cannot write to stdout: No space left on device"),
        ("list presets <&- >&-", "cannot write to stdout: it is closed"),
    ],
)
def test_data_that_cannot_be_printed_are_a_failure(line: str, message: str, tmp_path: Path) -> None:
    code, out, err = shell(f"{COMMAND} {line}", tmp_path)
    assert (code, out) == (1, "") and message in err and err.count("\n") == 1


def test_without_stderr_nothing_else_gets_its_lines(tmp_path: Path) -> None:
    """print(..., file=None) would write to stdout."""
    assert shell(f"{COMMAND} list nothing 2>&-", tmp_path) == (2, "", "")
    assert shell(f"{COMMAND} list presets <&- >&- 2>&-", tmp_path) == (1, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_hears_nothing_more(tmp_path: Path) -> None:
    code, out, err = shell(f"set -o pipefail; {COMMAND} list datasets | head -c 5", tmp_path)
    assert out == "shape" and err == "" and code in (0, 1), "0 where all was written before"


AT_IMPORT = """
import os, signal, sys

class Impatient:
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Impatient())
sys.argv = ["maskbench", "list", "strategies"]
from maskbench.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "maskbench.catalog.listing"])
def test_ctrl_c_is_heard_from_the_first_import_on(module: str, tmp_path: Path) -> None:
    code = AT_IMPORT.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "maskbench: interrupted\n")
