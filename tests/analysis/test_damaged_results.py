"""A results folder with copies and damaged files in it: the numbers of the sound records, and a line for each other."""

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskbench.analysis.report import read_picture
from maskbench.analysis.results import load_results, read_records, read_results
from maskbench.config.claims import Claim, read_claims
from maskbench.config.plain_files import NotPlain
from maskbench.errors import UsageError
from maskbench.record import RunRecord
from maskbench.sweeps.sweep import Sweep
from tests.helpers.command_line import Done, maskbench
from tests.helpers.records import record, write_records


def sound() -> list[RunRecord]:
    return [
        record(name, seed, 0.5 + seed / 100, run_id=f"{'none' if name == 'random-init' else name}-0a1b2c3d-s{seed}")
        for name in ("random-init", "random", "gmml")
        for seed in (0, 1)
    ]


def damage(folder: Path) -> list[str]:
    """Adds what must not count; the paths that must be named."""
    runs = folder / "runs"
    shutil.copytree(runs / "random-0a1b2c3d-s0", runs / "random-0a1b2c3d-s2")  # as another seed
    shutil.copytree(runs / "random-0a1b2c3d-s0", runs / "random-0a1b2c3d-s0 (copy)")
    (runs / "random-0a1b2c3d-s3").symlink_to("random-0a1b2c3d-s1")
    (runs / "pipe-0-s0").mkdir()
    os.mkfifo(runs / "pipe-0-s0" / "record.json")
    (runs / "large-0-s0").mkdir()
    (runs / "large-0-s0" / "record.json").touch()
    os.truncate(runs / "large-0-s0" / "record.json", 2**30)
    for name, text in {"deep-0-s0": "[" * 200_000, "cut-0-s0": '{"schema_version": 1', "empty-0-s0": ""}.items():
        (runs / name).mkdir()
        (runs / name / "record.json").write_text(text)
    content = json.loads((runs / "gmml-0a1b2c3d-s0" / "record.json").read_text())
    for number, metrics in enumerate(({"linear/top1/mean": float("nan")}, {"seed": 3.0}), 4):
        made = runs / f"gmml-0a1b2c3d-s{number}"
        made.mkdir()
        changed = {**content, "run_id": made.name, "seed": number, "metrics": metrics}
        changed["config"] = {**content["config"], "seed": number}
        (made / "record.json").write_text(json.dumps(changed))
    os.mkfifo(folder / "claims.yaml")
    os.mkfifo(runs / "random-0a1b2c3d-s0" / "masks.png")
    (folder / "figures").mkdir()
    os.mkfifo(folder / "figures" / "matplotlib-version.txt")
    added = ["random-0a1b2c3d-s2", "random-0a1b2c3d-s0 (copy)", "random-0a1b2c3d-s3", "pipe-0-s0", "large-0-s0"]
    return [*added, "deep-0-s0", "cut-0-s0", "empty-0-s0", "gmml-0a1b2c3d-s4", "gmml-0a1b2c3d-s5"]


def test_the_numbers_are_those_of_the_sound_records(tmp_path: Path) -> None:
    clean, dirty = write_records(tmp_path / "clean", *sound()), write_records(tmp_path / "dirty", *sound())
    names = damage(dirty)
    expected = maskbench("table", "clean", cwd=tmp_path)
    shown = maskbench("table", "dirty", cwd=tmp_path)
    assert (shown.code, shown.out) == (0, expected.out)
    lines = shown.err.splitlines()
    for name in names:
        (line,) = [line for line in lines if f"dirty/runs/{name}/record.json: " in line]
        assert line.startswith("maskbench: skipped ")
    assert [line for line in lines if "claims left out: cannot read config dirty/claims.yaml: it is a pipe" in line]
    assert len(lines) == len(names) + 1
    assert load_results(clean)["run_id"].tolist() == load_results(dirty)["run_id"].tolist()


def test_figures_report_and_status_are_made_beside_damage(tmp_path: Path) -> None:
    names = damage(write_records(tmp_path / "dirty", *sound()))
    done = maskbench("report", "dirty", cwd=tmp_path)  # which also plots
    assert done.code == 0 and (tmp_path / "dirty" / "figures" / "differences.png").is_file(), done.err
    assert "masks.png: it is a pipe" in done.err
    page = (tmp_path / "dirty" / "report.html").read_text()
    assert page.count("maskbench rerun dirty/runs/random-0a1b2c3d-s") == 2
    shown = maskbench("status", "dirty", cwd=tmp_path)
    assert shown.code == 0 and f"{len(names)} failed" in shown.out and "6 done" in shown.out


def test_two_versions_of_a_strategy_are_two_rows(tmp_path: Path) -> None:
    newer = record("random", 0, 0.9, run_id="random-99999999-s0")
    newer.strategy["version"] = 2
    folder = write_records(tmp_path, *sound(), newer)
    labels = load_results(folder).groupby("label")["seed"].apply(list).to_dict()
    assert labels["random (strategy_version=1)"] == [0, 1] and labels["random (strategy_version=2)"] == [0]


def test_two_runs_of_one_row_and_seed_are_both_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = record("random", 0, 0.9, run_id="random-99999999-s0")
    folder = write_records(tmp_path, *sound(), again)
    assert {each.run_id for each in read_records(folder)} == {each.run_id for each in sound()} - {"random-0a1b2c3d-s0"}
    printed = capsys.readouterr().err
    assert "2 records" in printed and "random with seed 0 (random-0a1b2c3d-s0, random-99999999-s0)" in printed
    assert len(printed.splitlines()) == 1


def test_a_trial_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path, *sound())
    write_records(tmp_path / "trials", record("random", run_id="random-0-s0"))
    results = read_results(tmp_path)
    assert len(results.records) == 6 and results.trials == []
    assert "random-0-s0 in" in capsys.readouterr().err


def test_a_linked_picture_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(b"\x89PNG")
    (tmp_path / "masks.png").symlink_to("private.png")
    with pytest.raises(NotPlain, match="it is a link"):
        read_picture(tmp_path / "masks.png")
    with pytest.raises(NotPlain, match="it is no picture"):
        read_picture(tmp_path / "private.png")
    (tmp_path / "postscript.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(NotPlain, match="it is no picture"):
        read_picture(tmp_path / "postscript.png")


@pytest.mark.parametrize(("command", "link"), [("table", "tables"), ("plot", "figures"), ("report", "tables")])
def test_nothing_is_written_through_a_linked_folder(tmp_path: Path, command: str, link: str) -> None:
    write_records(tmp_path / "out", *sound())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "differences.png").touch()  # which would count as an earlier figure
    (tmp_path / "out" / link).symlink_to("../elsewhere")
    done: Done = maskbench(command, "out", cwd=tmp_path)
    assert done.code == 2 and f"out/{link} is a link, and nothing is written through it" in done.err
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["differences.png"]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    write_records(tmp_path / "out", *sound())
    for umask, mode in ((0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            assert maskbench("table", "out", cwd=tmp_path).code == 0
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "out" / "tables" / "comparison.md").stat().st_mode) == mode, sys.platform


def test_a_papers_table_is_a_regular_file_of_a_bounded_size(tmp_path: Path) -> None:
    write_records(tmp_path / "out", *sound())
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "large.csv").touch()
    os.truncate(tmp_path / "large.csv", 2**30)
    for name, reason in (("pipe.csv", "it is a pipe"), ("large.csv", "it has 1,024 MiB, more than the 16 MiB that")):
        done = maskbench("compare", name, "out", cwd=tmp_path)
        assert done.code == 2 and f"cannot read {name}: {reason}" in done.err


def test_claims_are_written_through_no_link_and_over_no_folder(tmp_path: Path) -> None:
    claim = Claim(says="a", source="b", better="gmml", than="random")
    sweep = Sweep(SimpleNamespace(claims=[claim]))  # type: ignore[arg-type]
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "claims.yaml").symlink_to("../theirs")
    sweep._write_claims(tmp_path / "out")
    assert (tmp_path / "theirs").read_text() == "theirs" and read_claims(tmp_path / "out") == [claim]
    (tmp_path / "out" / "claims.yaml").unlink()
    (tmp_path / "out" / "claims.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot write .*claims.yaml .*; move it away"):
        sweep._write_claims(tmp_path / "out")
