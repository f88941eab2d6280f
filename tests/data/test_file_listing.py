"""What is read of a folder, what is left out and said so, and by what a change is noticed."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest

from maskbench import data
from maskbench.data import huggingface, torchvision
from maskbench.errors import UsageError
from tests.helpers.image_files import CLASSES, png, write_folders, write_parquet, write_tar


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def load(root: Path | str, **options: Any) -> Any:
    data.load_dataset.cache_clear()
    return data.load_dataset(str(root), (12, 12), 3, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders: 6 training images and 3 test images."""
    write_folders(tmp_path / "data", "train", 0, 6)
    write_folders(tmp_path / "data", "test", 50, 3)
    return tmp_path / "data"


def move_behind_link(path: Path, elsewhere: Path) -> Path:
    """Move a folder or file and leave a link in its place. Returns where it is now."""
    elsewhere.mkdir(exist_ok=True)
    target = elsewhere / path.name
    shutil.move(path, target)
    path.symlink_to(target)
    return target


@pytest.mark.parametrize("linked", ["train", "train/dog", "train/dog/0001.png", "test"])
def test_what_is_linked_is_read_and_a_change_of_it_is_noticed(linked: str, root: Path, tmp_path: Path) -> None:
    target = move_behind_link(root / linked, tmp_path / "elsewhere")
    before = load(root)
    assert before.sizes == {"train": 6, "validation": 1, "test": 3}
    image = target if target.is_file() else next(iter(sorted(target.rglob("*.png"))))
    image.write_bytes(png(99))
    assert load(root).fingerprint != before.fingerprint


def test_a_link_that_leads_elsewhere_is_noticed(root: Path, tmp_path: Path) -> None:
    """To files with the same names, sizes and times."""
    target = move_behind_link(root / "train" / "dog", tmp_path / "elsewhere")
    shutil.copytree(target, tmp_path / "other")
    for number, file in enumerate(sorted((tmp_path / "other").iterdir())):
        file.write_bytes((target / file.name).read_bytes()[:-12] + bytes([number]) * 12)
    for file in [*target.iterdir(), *(tmp_path / "other").iterdir()]:
        os.utime(file, (1, 1))
    before = load(root)
    (root / "train" / "dog").unlink()
    (root / "train" / "dog").symlink_to(tmp_path / "other")
    assert load(root).fingerprint != before.fingerprint


@pytest.mark.parametrize("prefix", ["", "wds/"])
def test_linked_files_of_rows_and_shards(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, first in (("train", 0), ("test", 50)):
        if prefix:
            members = [(f"{n:04}.{field}", content) for n in range(first, first + 6)
                       for field, content in (("png", png(n)), ("cls", str(n % 3).encode()))]  # fmt: skip
            write_tar(tmp_path / "blobs" / split, members)
        else:
            write_parquet(tmp_path / "blobs" / split, first, 6)
        (tmp_path / "data" / split).symlink_to(tmp_path / "blobs" / split)
        (tmp_path / "data" / split).rename(tmp_path / "data" / f"{split}{'.tar' if prefix else '.parquet'}")
    assert load(f"{prefix}{tmp_path}/data").sizes == {"train": 6, "validation": 1, "test": 6}


def test_one_folder_under_two_names_is_refused(root: Path) -> None:
    shutil.rmtree(root / "test")
    (root / "test").symlink_to("train")
    with pytest.raises(UsageError, match="(train and test|test and train) of .* are the same folder; remove the link"):
        load(root)
    (root / "test").unlink()
    (root / "train" / "dog" / "all").symlink_to(root)
    with pytest.raises(UsageError, match=r"train/dog/all and . of .* are the same folder; remove the link"):
        load(root)


def test_a_folder_link_to_nothing_is_named(root: Path) -> None:
    (root / "train" / "fox").symlink_to("gone")
    with pytest.raises(UsageError, match="cannot read .*train/fox: No such file or directory: gone; bring it back, or"):
        load(root)


def test_changed_downloads_of_torchvision_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    before = torchvision.find_source("torch/mnist", str(tmp_path)).cache_key
    (folder / "train-images-idx3-ubyte").write_bytes(b"pixels")
    changed = torchvision.find_source("torch/mnist", str(tmp_path)).cache_key
    (tmp_path / "another-data-set").write_bytes(b"")
    assert before != changed == torchvision.find_source("torch/mnist", str(tmp_path)).cache_key


def test_changed_images_to_which_rows_of_the_hub_point_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    rows = [{"bytes": None, "path": "0.png"}, {"bytes": png(1), "path": None}]
    images = pyarrow.array(rows, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
    table = pyarrow.table({"image": images, "label": [0, 1]})
    with pyarrow.ipc.new_stream(tmp_path / "train.arrow", table.schema) as file:
        file.write_table(table)
    splits = {"train": SimpleNamespace(cache_files=[{"filename": str(tmp_path / "train.arrow")}])}
    monkeypatch.setattr("maskbench.data.huggingface.open_splits", lambda *_: splits)
    monkeypatch.chdir(tmp_path)
    before = huggingface.find_source("photos", None).cache_key
    os.utime(tmp_path / "0.png", (1, 1))
    changed = huggingface.find_source("photos", None).cache_key
    assert before != changed and str(tmp_path / "0.png") in {path for _, path, *_ in changed["files"]}
    (tmp_path / "0.png").unlink()
    with pytest.raises(UsageError, match="cannot read .*/0.png: No such file or directory; bring it back"):
        huggingface.find_source("photos", None)


def hide_in_top(root: Path) -> None:
    shutil.copytree(root / "train", root / ".ipynb_checkpoints")


def hide_in_split(root: Path) -> None:
    shutil.copytree(root / "train" / "dog", root / "train" / ".ipynb_checkpoints")


def hide_in_class(root: Path) -> None:
    shutil.copytree(root / "train" / "dog", root / "train" / "dog" / "__MACOSX" / "dog")


def hide_files(root: Path) -> None:
    for path in ((root / "train" / "dog" / "._0001.png"), (root / "train" / "._dog.png")):
        path.write_bytes(b"Mac OS X        ")


@pytest.mark.parametrize(
    ("spoil", "count"), [(hide_in_top, "6 hidden files"), (hide_in_split, "2 hidden files"),
                         (hide_in_class, "2 hidden files"), (hide_files, "2 hidden files")]
)  # fmt: skip
def test_hidden_images_are_left_out_at_every_level(spoil: Callable[[Path], None], count: str, root: Path) -> None:
    spoil(root)
    with pytest.warns(UserWarning, match=f"^left out in .*: {count}$"):
        splits = load(root)
    assert splits.sizes == {"train": 6, "validation": 1, "test": 3} and splits.classes == tuple(CLASSES)


def test_hidden_parquet_files_and_shards_are_left_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows" / "train.parquet", 0, 6)
    write_parquet(tmp_path / "rows" / "test.parquet", 50, 6)
    (tmp_path / "rows" / "._train.parquet").write_bytes(b"Mac OS X")
    with pytest.warns(UserWarning, match="^left out in .*: 1 hidden file$"):
        assert len(load(tmp_path / "rows").train) == 6


def test_hidden_files_that_are_no_images_are_not_said(root: Path) -> None:
    (root / ".DS_Store").write_bytes(b"")
    (root / ".cache").mkdir()
    (root / ".cache" / "lock").write_bytes(b"")
    assert len(load(root).train) == 6


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".heic", ".HEIC", ".jp2", ".pgm", ".npy"])
def test_images_of_other_endings_are_said_with_their_number(suffix: str, root: Path) -> None:
    for number in range(2):
        (root / "train" / "dog" / f"{number}{suffix}").write_bytes(png(number))
    with pytest.warns(UserWarning, match=f"^left out in .*: 2 files {suffix.lower()}$"):
        assert len(load(root).train) == 6


def test_a_folder_of_other_endings_alone(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.heic").write_bytes(b"")
    with pytest.raises(UsageError, match="no Parquet files or images in .*; left out: 3 files .heic"):
        load(tmp_path)


def test_whatever_else_is_left_out_is_said(root: Path) -> None:
    shutil.copytree(root / "train" / "dog", root / "extra")
    shutil.copy(root / "train" / "dog" / "0001.png", root / "train" / "loose.png")
    shutil.copy(root / "train" / "dog" / "0001.png", root / "train" / "dog" / "unnamed")
    (root / "train" / "notes").mkdir()
    with pytest.warns(UserWarning, match="^left out in ") as caught:
        splits = load(root)
    said = str(caught[0].message).partition(": ")[2].split(", ")
    assert set(said) == {
        "2 image files outside of the splits", "1 image file of train in no class folder",
        "1 file without an ending", "1 class folder without images",
    }  # fmt: skip
    assert len(splits.train) == 6 and splits.classes == tuple(CLASSES)


def test_what_lies_beside_parquet_files_is_said(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 0, 6)
    write_parquet(tmp_path / "test.parquet", 50, 6)
    write_parquet(tmp_path / "extra.parquet", 50, 6)
    (tmp_path / "logo.png").write_bytes(png(0))
    with pytest.warns(UserWarning, match="^left out in ") as caught:
        load(tmp_path)
    said = str(caught[0].message)
    assert "1 Parquet file of no split" in said and "1 image file beside the Parquet files" in said


def test_images_of_train_in_no_class_folder_beside_classes_of_test(root: Path) -> None:
    for file in list((root / "train").rglob("*.png")):
        file.rename(root / "train" / file.name)
    with pytest.raises(
        UsageError, match="images in .*/train are in no class folders, but those of other splits are: c"
    ):
        load(root)
    shutil.rmtree(root / "test")
    assert load(root).classes == ()


def test_a_test_split_without_classes_is_none(root: Path) -> None:
    """As where its labels are withheld."""
    (root / "test").rename(root / "val")
    (root / "test").mkdir()
    (root / "test" / "0.png").write_bytes(png(0))
    with pytest.warns(UserWarning, match="1 image file of test in no class folder"):
        assert load(root).sizes == {"train": 6, "validation": 1, "test": 3}


def test_shards_that_are_left_out_are_said(tmp_path: Path) -> None:
    members = [(f"{n}.{field}", content) for n in range(6)
               for field, content in (("png", png(n)), ("cls", str(n % 3).encode()))]  # fmt: skip
    for name in ("train", "test", "0000"):
        write_tar(tmp_path / f"{name}.tar", members)
    (tmp_path / "train-1.tar.gz").write_bytes(b"")
    (tmp_path / "._train-1.tar").write_bytes(b"")
    with pytest.warns(UserWarning, match="^left out in ") as caught:
        assert len(load(f"wds/{tmp_path}").train) == 6
    said = str(caught[0].message).partition(": ")[2].split(", ")
    assert set(said) == {"1 shard of no split", "1 file .gz", "1 hidden file"}
