"""Labels, splits and groups from a CSV file."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskbench.data.label_table import _Row, hold_out_groups, make_table
from maskbench.data.load import load_dataset
from maskbench.errors import UsageError
from tests.helpers.command_line import SMALL, maskbench
from tests.helpers.image_files import png

Line = dict[str, object]


def lines(count: int = 90) -> list[Line]:
    """Two images a patient, patients of one class each; the last third is for test."""
    return [
        {"file": f"ward{n % 2}/scan {n}.png", "label": ("flu", "cold", "none")[n // 2 % 3], "group": f"p{n // 2}",
         "split": "train" if n < 60 else "test"} for n in range(count)
    ]  # fmt: skip


def write(folder: Path, rows: list[Line], *, images: bool = True) -> Path:
    (folder / "scans").mkdir(exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows if images else ()):
        path = folder / "scans" / str(row["file"])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(number))
    return folder / "scans"


def load(folder: Path, **columns: str):  # type: ignore[no-untyped-def]
    return load_dataset(str(folder), (8, 8), 3, labels=make_table(str(folder.parent / "labels.csv"), **columns))


def test_files_labels_and_splits_are_the_tables(tmp_path: Path) -> None:
    rows = [{"file": row["file"], "label": row["label"], "split": row["split"]} for row in lines()]
    splits = load(write(tmp_path, rows))
    assert splits.classes == ("cold", "flu", "none") and splits.sizes == {"train": 60, "validation": 6, "test": 30}
    assert [splits.classes[label] for label in splits.test.labels] == [row["label"] for row in rows[60:]]


def test_columns_of_other_names_and_numbers_in_their_order(tmp_path: Path) -> None:
    rows = [{"path": row["file"], "grade": 2 + 4 * (n % 3), "part": "TRAIN" if n < 60 else "val"}
            for n, row in enumerate(lines())]  # fmt: skip
    write(tmp_path, [{"file": row["path"], **row} for row in rows])
    splits = load(tmp_path / "scans", file="path", label="grade", split="part")
    assert splits.classes == ("2", "6", "10") and len(splits.test) == 30, "validation serves as test"


def test_groups_stay_together_when_images_are_held_out(tmp_path: Path) -> None:
    splits = load(write(tmp_path, lines()))
    assert splits.sizes["train"] == 54 and splits.sizes["validation"] == 6, "three whole patients"


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=2, max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_group_is_ever_on_both_sides(images: list[tuple[int, int]]) -> None:
    """Any groups and labels: what is held out is at least a tenth, unless one group alone would be left."""
    rows = [
        _Row(number, f"{number}.png", str(label), "train", f"g{group}") for number, (group, label) in enumerate(images)
    ]
    if len({row.group for row in rows}) == 1:
        with pytest.raises(UsageError, match="all training images are of one group"):
            hold_out_groups(rows, {"0": 0, "1": 1, "2": 2})
        return
    fit, held = hold_out_groups(rows, {"0": 0, "1": 1, "2": 2})
    groups = [{row.group for row in side} for side in (fit, held)]
    assert not groups[0] & groups[1] and groups[0] and groups[1]
    assert sorted(row.number for row in (*fit, *held)) == list(range(len(rows)))
    assert len(held) >= len(rows) / 10 or len(groups[0]) == 1


def spoil(name: str, rows: list[Line]) -> list[Line]:
    changes = {
        "column": lambda: [{key: value for key, value in row.items() if key != "split"} for row in rows],
        "file": lambda: [{**rows[0], "file": "ward0/nowhere.png"}, *rows[1:]],
        "twice": lambda: [rows[1], *rows[1:]],
        "split": lambda: [{**rows[0], "split": "holdout"}, *rows[1:]],
        "label": lambda: [{**rows[0], "label": ""}, *rows[1:]],
        "group": lambda: [*rows[:-1], {**rows[-1], "group": "p0"}],
        "number": lambda: [{**row, "label": "0.5"} for row in rows],
        "test": lambda: [{**row, "split": "train"} for row in rows],
    }
    return changes[name]()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("column", "unknown column of labels.csv 'split'"),
        ("file", "1 files of labels.csv are no images below scans: ward0/nowhere.png (line 2)"),
        ("twice", "lines 2 and 3 of labels.csv both name ward1/scan 1.png; drop one"),
        ("split", "line 2 of labels.csv: split should be train, validation or test"),
        ("label", "1 rows of labels.csv have no label, the first in line 2"),
        ("group", "1 groups of labels.csv are in several splits: p0 (test, train)"),
        ("number", "the label 0.5 is no class"),
        ("test", "no test split in scans"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_line(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path, lines())
    write(tmp_path, spoil(name, lines()), images=False)
    done = maskbench("data", "./scans", "--labels", "labels.csv", cwd=tmp_path)
    assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1, done.err


@pytest.mark.filterwarnings("default:left out")
def test_a_run_reads_the_table(tmp_path: Path) -> None:
    write(tmp_path, lines())
    (tmp_path / "scans" / "stray.png").write_bytes(png(1000))
    done = maskbench("run", "--dataset", "./scans", "--labels", "labels.csv", "--probes", "knn", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "left out in ./scans: 1 image file that the table does not name" in done.err
    alone = maskbench("run", "--dataset", "./scans", "--group-column", "group", *SMALL, cwd=tmp_path)
    assert alone.code == 2 and "--group-column names a column of --labels; give that file, too" in alone.err
    generated = maskbench("run", "--labels", "labels.csv", *SMALL, cwd=tmp_path)
    assert generated.code == 2 and "shapes has labels of its own; --labels is for image files" in generated.err
