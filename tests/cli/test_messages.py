"""What commands say: one line, in words that help, on any terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskbench.errors import unknown_name
from tests.helpers.command_line import maskbench
from tests.helpers.records import record, write_records

NAMES = [f"name-{number}" for number in range(30)] + ["gmml", "random", "random-coarse"]


@pytest.mark.parametrize("typed", ["gml", "randm", "random-corse", "Random"])
def test_a_sure_suggestion_stands_alone(typed: str) -> None:
    message = str(unknown_name("strategy", typed, NAMES))
    assert message.startswith(f"unknown strategy {typed!r}. Did you mean ") and message.endswith("?")


def test_an_unsure_suggestion_comes_with_the_list() -> None:
    message = str(unknown_name("strategy", "my-random-x", NAMES))
    assert "Did you mean random" in message and "Known: gmml, name-0, " in message
    assert str(unknown_name("strategy", "xyz", NAMES)).startswith("unknown strategy 'xyz'. Known: gmml, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --regime x", "Invalid value for '--regime': 'x' is not one of 'paper', 'matched'."),
        ("run --set data.img_size=-4 --print-config", "data.img_size=-4 should be "),
        ("run --batch-size 0 --print-config", "train.batch_size=0 should be greater than or equal to 2"),
    ],
)
def test_no_validators_words(arguments: str, message: str, tmp_path: Path) -> None:
    done = maskbench(*arguments.split(), cwd=tmp_path)
    assert done.code == 2 and message in done.err and "Value error" not in done.err and "tuple" not in done.err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_the_letters_of_a_table(encoding: str, tmp_path: Path) -> None:
    """cp1252 has ±, but no Δ."""
    write_records(tmp_path / "out", record("random"), record("gmml", accuracy=0.6))
    command = [sys.executable, "-m", "maskbench", "table", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=False
    )
    said = done.stderr.decode(encoding)
    assert done.returncode == 0, said
    assert "? random" in done.stdout.decode(encoding) and "+10.0" in done.stdout.decode(encoding)
    assert said.count("lacks some characters, shown as ?; PYTHONIOENCODING=utf-8 prints them") == 1
    assert "Δ random" in (tmp_path / "out" / "tables" / "comparison.md").read_text(encoding="utf-8")
