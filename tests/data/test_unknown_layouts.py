"""What looks like no data set gets a line that says what it is and what to type; damaged images are named at once."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from maskbench import data
from maskbench.errors import UsageError
from tests.helpers.image_files import png, write_folders, write_parquet, write_tar


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def load(root: Path | str, **options: Any) -> Any:
    return data.load_dataset(str(root), (12, 12), 3, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.parquet", "a.parquet is one Parquet file: give its folder, --dataset {}, in which files are called train"),
        ("a.tar", "a.tar is a tar shard: give its folder, --dataset wds/{}$"),
        ("a.zip", r"a.zip is an archive: unpack it \(unzip .*a.zip\), and give the folder that comes out"),
        ("a.tar.gz", r"a.tar.gz is an archive: unpack it \(tar -xf .*a.tar.gz\), and give the folder"),
        ("a.csv", "a.csv is a table, which is not read: write the images to train/<class>/<image> and test/"),
        ("a.npz", "a.npz is a file of arrays, which is not read: write the images to train/<class>/<image>"),
        ("a.png", "a.png is a file: give a folder with train/<class>/<image>"),
        ("a", "a is a file: give a folder with train/<class>/<image>"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_single_file(
    name: str, message: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    where = ("./" if "parquet" in name else r"\.") if relative else re.escape(str(tmp_path))
    with pytest.raises(UsageError, match=message.format(where)):
        load(name if relative else tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train.tar", "no Parquet files or images in .*; it holds tar shards: type --dataset wds/.*"),
        ("train.arrow", "; it holds Arrow files: type --dataset hfds/.*, or write them as Parquet files"),
        ("photos.zip", "; it holds 1 files .zip: unpack them"),
        ("train.csv", "; it holds 1 files .csv: write the images to train/<class>/<image>"),
        ("train.npz", "; left out: 1 file .npz$"),
    ],
)
def test_a_folder_of_something_else(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=message):
        load(tmp_path)


def test_how_images_get_labels_is_said(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "digits" / f"d{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "digits" / f"d{number % 2}" / f"{number}.png").write_bytes(png(number))
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.png").write_bytes(png(number))
    said = data.explain_labels(str(tmp_path / "digits"), None)
    assert re.match("the folders d0, d1 of .*/digits count as classes only inside of .*/digits/train/ and", said)
    said = data.explain_labels(str(tmp_path / "flat"), None)
    assert re.match("sort the images into .*/flat/train/<class>/ and .*/flat/test/<class>/", said)
    write_parquet(tmp_path / "rows" / "train.parquet", 0, 6, label="target")
    said = data.explain_labels(str(tmp_path / "rows"), None)
    assert said == "the columns of train.parquet are image, target: name that of the labels with --label-column"
    write_tar(tmp_path / "shards" / "train.tar", {"0.png": png(0)})
    assert data.explain_labels(f"wds/{tmp_path}/shards", None).startswith("write the number of its class into")


def test_a_label_column_of_another_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 0, 6, label="target")
    write_parquet(tmp_path / "test.parquet", 50, 6, label="target")
    assert load(tmp_path).classes == ()
    splits = load(tmp_path, labels="target")
    assert splits.train.labels.tolist() == [0, 1, 2] * 2 and len(splits.test) == 6
    with pytest.raises(UsageError, match="test.parquet has no column 'targets'; its columns are image, target"):
        load(tmp_path, labels="targets")


def test_a_label_column_chooses_among_several(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", 0, 6)
        table = pyarrow.parquet.read_table(tmp_path / f"{split}.parquet")
        table = table.append_column("fine_label", pyarrow.array([0, 1] * 3))
        pyarrow.parquet.write_table(table, tmp_path / f"{split}.parquet")
    assert load(tmp_path, labels="fine_label").train.labels.tolist() == [0, 1] * 3


def test_a_label_column_without_columns_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 6)
    with pytest.raises(UsageError, match="holds images in folders, which have no columns; drop --label-column"):
        load(tmp_path, labels="target")
    for name in ("shapes", "torch/mnist", f"wds/{tmp_path}"):
        with pytest.raises(UsageError, match="has no columns; --label-column is for Parquet files and hfds/NAME"):
            load(name, labels="target")


def cut(encoded: bytes) -> bytes:
    return encoded[: len(encoded) // 2]


@pytest.mark.parametrize("memory_gib", [4, 0])
def test_all_damaged_images_are_named_at_once(memory_gib: float, tmp_path: Path) -> None:
    """Some do not open, others only fail when they are decoded."""
    write_folders(tmp_path, "train", 0, 9)
    write_folders(tmp_path, "test", 50, 3)
    (tmp_path / "train" / "dog" / "0004.png").write_bytes(b"no image")
    (tmp_path / "train" / "cat" / "0006.png").write_bytes(cut(png(6)))
    jpeg = io.BytesIO()
    Image.new("RGB", (300, 300), "red").save(jpeg, "JPEG")
    (tmp_path / "test" / "cat" / "0051.png").write_bytes(cut(jpeg.getvalue()))
    with pytest.raises(UsageError) as caught:
        load(tmp_path, memory_gib=memory_gib)
    message = str(caught.value)
    assert message.startswith("3 images cannot be used: ") and "\n" not in message
    for name in ("train/dog/0004.png", "train/cat/0006.png", "test/cat/0051.png"):
        assert f"cannot decode {name} in {tmp_path}: " in message


def test_many_damaged_images_are_listed_in_a_file(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 9)
    write_folders(tmp_path, "test", 50, 3)
    for file in (tmp_path / "train").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"^9 images cannot be used: .*; and 4 more, all in .*\.txt$") as caught:
        load(tmp_path)
    listed = Path(str(caught.value).rpartition(" ")[2])
    assert len(listed.read_text().splitlines()) == 9
    listed.unlink()
