"""Commands about stored results: what is missing is named with what there is, and a look writes nothing."""

from pathlib import Path

import pytest

from tests.helpers.command_line import maskbench
from tests.helpers.records import record, write_records

SCORES = {"random": (0.50, 0.52, 0.57), "gmml": (0.40, 0.43, 0.47)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [record(name, seed, value) for name, values in SCORES.items() for seed, value in enumerate(values)]
    return write_records(tmp_path / "all" / "mine", *records)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_look_at_another_baseline_changes_no_file(folder: Path) -> None:
    assert maskbench("report", "mine", cwd=folder.parent).code == 0
    before = files_of(folder)
    shown = maskbench("table", "mine", "--baseline", "gmml", cwd=folder.parent)
    assert shown.code == 0 and "Δ gmml" in shown.out and "printed only; --output FOLDER" in shown.err
    assert files_of(folder) == before
    assert maskbench("report", "mine", "--baseline", "gmml", cwd=folder.parent).code == 0
    after = files_of(folder)
    assert "Δ gmml" in after.pop("report.html").decode() and "Δ gmml" not in before.pop("report.html").decode()
    assert after == before


def test_tables_against_another_baseline_go_where_they_are_sent(folder: Path) -> None:
    sent = maskbench("table", "mine", "--baseline", "gmml", "--output", "other", cwd=folder.parent)
    assert sent.code == 0 and sent.err == ""
    assert (folder.parent / "other" / "comparison.md").read_text() == sent.out
    assert set(files_of(folder)) == {f"runs/{path.name}/record.json" for path in (folder / "runs").iterdir()}


@pytest.mark.parametrize("command", ["table", "plot", "report"])
def test_records_that_cannot_be_read_leave_the_files(command: str, folder: Path) -> None:
    for path in folder.glob("runs/*/record.json"):
        path.write_text('{"schema_version": 99}')
    (folder / "tables").mkdir()
    (folder / "tables" / "comparison.md").write_text("of before")
    before = files_of(folder)
    done = maskbench(command, "mine", cwd=folder.parent)
    assert done.code == 2 and "no record in mine can be read, and nothing is written" in done.err
    assert files_of(folder) == before


@pytest.mark.parametrize("command", ["export", "rerun", "probe"])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("nowhere", "nowhere is not the folder of a finished run: there is no such folder"),
        ("mine", "mine is not the folder of a finished run: it holds 6 of them; give one, e.g. mine/runs/"),
        (".", ". is not the folder of a finished run: runs are in mine; give one such as mine/runs/RUN"),
        ("begun", "begun is not the folder of a finished run: it has no record.json yet"),
        ("empty", "empty is not the folder of a finished run: it has no record.json; give a folder such as"),
    ],
)
def test_what_is_no_run_is_named_with_what_is_there(command: str, run: str, message: str, folder: Path) -> None:
    (folder.parent / "empty").mkdir()
    (folder.parent / "begun").mkdir()
    (folder.parent / "begun" / "config.yaml").write_text("")
    if (command, run) == ("probe", "nowhere"):
        message = "no folder, file or timm model 'nowhere'"
    rest = ["--dataset", "shapes"] if command == "probe" else []
    done = maskbench(command, run, *rest, cwd=folder.parent)
    assert done.code == 2 and message in done.err and "Errno" not in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["export", "probe"])
def test_a_finished_run_without_its_weights(command: str, folder: Path) -> None:
    """As results are committed: with records, without weights."""
    run = next(folder.glob("runs/*"))
    rest = ["--dataset", "shapes"] if command == "probe" else []
    for given in (run, run / "record.json"):
        done = maskbench(command, str(given), *rest, cwd=folder.parent)
        assert done.code == 2 and "its encoder.safetensors is not here: " in done.err
        assert f"maskbench rerun {run}\n" in done.err


@pytest.mark.parametrize("command", ["table", "plot", "report", "status", "compare"])
def test_results_folders_below_are_named(command: str, folder: Path) -> None:
    others = ["mine"] if command == "compare" else []
    done = maskbench(command, ".", *others, cwd=folder.parent)
    assert done.code == 2 and "in .; give one of mine" in done.err
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_a_file_is_no_results_folder(folder: Path) -> None:
    (folder.parent / "notes.md").write_text("")
    for command in ("table", "plot", "report"):
        assert "notes.md is a file; give a results folder" in maskbench(command, "notes.md", cwd=folder.parent).err
