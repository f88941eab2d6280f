"""Labels: classes are matched by name. A label that names no class is refused in one line, before anything runs."""

import json
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from maskbench import data
from maskbench.errors import UsageError
from tests.helpers.image_files import open_hub, png, write_folders, write_hub, write_parquet

TEXT_STRUCT = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def write_table(path: Path, columns: dict[str, Any], names: Sequence[str] | None = None, rows: int = 6) -> None:
    """A Parquet file of pictures with `columns` beside or in place of the column of images."""
    images = pyarrow.array([{"bytes": png(number), "path": None} for number in range(rows)], TEXT_STRUCT)
    table = pyarrow.table({"image": images, **columns})
    if names is not None:
        about = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pyarrow.parquet.write_table(table, path)


def load(root: Path | str, **options: Any) -> Any:
    return data.load_dataset(str(root), (12, 12), 3, **options)


def test_classes_of_parquet_are_matched_by_name(tmp_path: Path) -> None:
    """As numbers, 0 would be a cat in train and an emu in test."""
    write_table(tmp_path / "train.parquet", {"label": [0, 1, 2] * 2}, ["cat", "dog", "emu"])
    write_table(tmp_path / "test.parquet", {"label": [0, 1, 2] * 2}, ["emu", "cat", "dog"])
    splits = load(tmp_path)
    assert splits.classes == ("cat", "dog", "emu")
    assert splits.train.labels.tolist() == [0, 1, 2] * 2 and splits.test.labels.tolist() == [2, 0, 1] * 2


def test_classes_of_the_hub_are_matched_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskbench.data.huggingface.open_splits", open_hub)
    orders = {"train": ["cat", "dog", "emu"], "test": ["emu", "cat", "dog"]}
    splits = load(write_hub(tmp_path / "hub", {"train": [0, 1, 2] * 2, "test": [0, 1, 2] * 2}, orders))
    assert splits.classes == ("cat", "dog", "emu") and splits.test.labels.tolist() == [2, 0, 1] * 2


def test_another_order_in_files_of_the_hub_is_refused(tmp_path: Path) -> None:
    """The library takes the names of the first file for all."""
    write_table(tmp_path / "train.parquet", {"label": [0, 1] * 3}, ["cat", "dog"])
    write_table(tmp_path / "test.parquet", {"label": [0, 1] * 3}, ["dog", "cat"])
    with pytest.raises(UsageError, match="order their classes differently.*; give the folder as a path, without hfds/"):
        load(f"hfds/{tmp_path}")


def test_a_class_that_train_does_not_name(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", {"label": [0, 1] * 3}, ["cat", "dog"])
    write_table(tmp_path / "test.parquet", {"label": [0, 1] * 3}, ["cat", "fox"])
    with pytest.raises(UsageError, match=r"^row 1 of test.parquet in .* is of the class fox, which the training files"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"label": [[0], [1]] * 3}, {"label": [[0], [1]] * 3}, "label of .* holds list<.*>, where one number or one"),
        ({"label": ["cat", "dog"] * 3}, {"label": [0, 1] * 3}, "labels are text in train.parquet and numbers in test"),
        ({"label": [0, 1] * 3}, {"label": ["cat", "dog"] * 3}, "labels are numbers in train.parquet and text in test"),
        ({"label": [0.0, 1.5] * 3}, {"label": [0.0, 1.0] * 3}, "label of .*train.parquet holds 1.5; number the"),
        ({"label": [0.0, math.nan] * 3}, {"label": [0.0, 1.0] * 3}, "label of .*train.parquet holds nan; number"),
        ({"label": [{"name": "cat"}] * 6}, {"label": [{"name": "cat"}] * 6}, "label of .* holds struct<name: string>"),
        ({"label": [b"cat", b"dog"] * 3}, {"label": [b"cat", b"dog"] * 3}, "label of .* holds binary, where"),
        ({"label": [0, 1] * 3}, {"label": [None] * 6}, "labels are numbers in train.parquet and nothing in test"),
        ({"label": [None] * 6}, {"label": [None] * 6}, "row 0 of test.parquet in .* has no label; remove it"),
        ({"label": [0, 1] * 3}, {}, "test.parquet has no column 'label', which train.parquet has; its columns are i"),
        ({"label": [0, 1] * 3, "labels": [0, 1] * 3}, {"label": [0, 1] * 3}, "several columns of labels: label, la"),
        ({"label": [0, 1] * 3, "img": [png(0)] * 6}, {"label": [0, 1] * 3}, "several columns of images: image, img"),
        ({"label": [0, 1] * 3, "image": ["a.png"] * 6}, {"label": [0, 1] * 3}, "column image of .* holds text, per"),
        ({"label": [0, 1] * 3, "image": [[1, 2]] * 6}, {"label": [0, 1] * 3}, "column image of .* holds list<.*>, w"),
        (
            {"label": [0, 1] * 3, "image": pyarrow.array([{"bytes": None, "path": "a/0.png"}] * 6, TEXT_STRUCT)},
            {"label": [0, 1] * 3},
            "^row 0 of train.parquet in .* has only the path a/0.png of an image and not its bytes; write the files",
        ),
        ({"label": [0, 1] * 3}, {"label": [0, 2] * 3}, "the split test of .* has classes without a training image: 2;"),
        ({"label": [1] * 6}, {"label": [1] * 6}, "all training images of .* are of one class, 1; add others, or leave"),
    ],
)  # fmt: skip
def test_labels_that_are_no_classes_are_one_line(
    train: dict[str, Any], test: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_table(tmp_path / "train.parquet", train)
    write_table(tmp_path / "test.parquet", test)
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_names_here_and_numbers_there_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", {"label": [0, 1] * 3}, ["cat", "dog"])
    write_table(tmp_path / "test.parquet", {"label": [0, 1] * 3})
    with pytest.raises(UsageError, match=r"^train.parquet names its classes and test.parquet only numbers them; write"):
        load(tmp_path)


def test_labels_of_several_kinds_are_read(tmp_path: Path) -> None:
    for number, labels in enumerate([["dog", "cat"] * 3, [1.0, 0.0] * 3, [True, False] * 3]):
        root = tmp_path / str(number)
        root.mkdir()
        for split in ("train", "test"):
            write_table(root / f"{split}.parquet", {"label": labels})
        assert load(root).train.labels.tolist() == [1, 0] * 3
    data.load_dataset.cache_clear()
    dictionary = pyarrow.array(["dog", "cat"] * 3).dictionary_encode()
    write_table(tmp_path / "2" / "train.parquet", {"label": dictionary})
    write_table(tmp_path / "2" / "test.parquet", {"label": ["cat", "dog"] * 3})
    assert load(tmp_path / "2").test.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_a_split_without_images_is_refused_before_anything_runs(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskbench.data.huggingface.open_splits", open_hub)
    for name in ("train", "test", "validation"):
        write_parquet(tmp_path / "parquet" / f"{name}.parquet", 0, 0 if name == split else 6)
        write_folders(tmp_path / "folders", name, 0, 6)
    with pytest.raises(UsageError, match=f"the split {split} of .* has no rows; fill it, or remove its files"):
        load(tmp_path / "parquet")
    for file in (tmp_path / "folders" / split).rglob("*.png"):
        file.unlink()
    with pytest.raises(UsageError, match=f"the split {split} of .* has no images; fill it, or remove it"):
        load(tmp_path / "folders")
    empty = pyarrow.array([], pyarrow.int64())
    hub = write_hub(tmp_path / "hub", {"train": [0, 1, 2], "test": [0, 1, 2], "validation": [0, 1, 2], split: empty})
    with pytest.raises(UsageError, match=f"the split {split} of hfds/.* has no rows; give a folder without it"):
        load(hub)


def test_classes_of_folders(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 6)
    write_folders(tmp_path, "test", 0, 6)
    shutil.copytree(tmp_path / "train" / "cat", tmp_path / "test" / "fox")
    with pytest.raises(UsageError, match="the split test of .* has classes without a training image: fox; add"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "test" / "fox")
    for name in ("dog", "emu"):
        shutil.rmtree(tmp_path / "train" / name)
        shutil.rmtree(tmp_path / "test" / name)
    with pytest.raises(UsageError, match="all training images of .* are of one class, cat; add others, or leave"):
        load(tmp_path)


def test_classes_that_differ_in_case_are_said(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folders(tmp_path, split, 0, 6)
        shutil.copytree(tmp_path / split / "cat", tmp_path / split / "Cat")
    with pytest.warns(UserWarning, match="has classes that differ only in case or spaces: 'Cat' and 'cat'; they count"):
        assert len(load(tmp_path).classes) == 4
    shutil.rmtree(tmp_path / "train" / "Cat")
    data.load_dataset.cache_clear()
    with pytest.raises(UsageError, match="has classes without a training image: Cat;"), warnings.catch_warnings():
        load(tmp_path)
