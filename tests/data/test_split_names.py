"""Which split a file or folder is: by its own name, else by the nearest folder's; what could be two is refused."""

import shutil
from pathlib import Path

import pytest

from maskbench.data import load_dataset
from maskbench.data.huggingface import _read_splits
from maskbench.data.image_source import find_split
from maskbench.errors import UsageError
from tests.helpers.image_files import write_folders, write_parquet


@pytest.mark.parametrize(
    ("path", "anywhere", "split"),
    [
        ("trips-by-train/test-0000.tar", True, "test"),  # the file's own name decides
        ("trips-by-train/0000.tar", True, "train"),
        ("train/more/0000.tar", True, "train"),
        ("photos-val-0001.tar", True, "validation"),
        ("training/part.parquet", False, "train"),
        ("my-train.parquet", False, None),
        ("trains/0000.tar", True, None),
    ],
)
def test_the_nearest_name_decides(path: str, anywhere: bool, split: str | None) -> None:
    assert find_split(Path(path), anywhere=anywhere) == split


def test_two_splits_in_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"train-test-0000.tar names several splits \(test, train\); rename it"):
        find_split(Path("train-test-0000.tar"), anywhere=True)
    assert find_split(Path("train-validation.parquet")) == "train", "where only the beginning counts"


@pytest.mark.parametrize(("own", "other"), [("train", "train_masks"), ("test", "test_extra"), ("train", "training")])
def test_two_folders_of_one_split_are_refused(own: str, other: str, tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 12)
    write_folders(tmp_path, "test", 12, 6)
    shutil.copytree(tmp_path / own, tmp_path / other)
    message = f"several folders of .* are the split {own}: {own}, {other}; move all but one away"
    with pytest.raises(UsageError, match=message):
        load_dataset(str(tmp_path), (12, 12), 3)


def test_configurations_of_a_parquet_repository_are_not_merged(tmp_path: Path) -> None:
    for size in ("160px", "320px"):
        write_parquet(tmp_path / size / "train-00000-of-00001.parquet", 0, 12)
        write_parquet(tmp_path / size / "test-00000-of-00001.parquet", 12, 6)
    with pytest.raises(UsageError, match="are the split test: 160px, 320px; move all but one away, or give the folder"):
        load_dataset(str(tmp_path), (12, 12), 3)
    assert len(load_dataset(str(tmp_path / "160px"), (12, 12), 3).train) == 12


def test_a_split_may_have_several_files(tmp_path: Path) -> None:
    for number in range(2):
        write_parquet(tmp_path / "data" / f"train-0000{number}-of-00002.parquet", 12 * number, 12)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", 24, 6)
    assert len(load_dataset(str(tmp_path), (12, 12), 3).train) == 24


def test_two_hub_splits_of_one_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="several splits of one kind: train, val, validation; give a folder"):
        _read_splits("photos", dict.fromkeys(("train", "val", "validation", "extra")))
