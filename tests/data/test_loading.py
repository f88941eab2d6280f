"""Data sets on disk: what is read, what is cached, what is refused, and how."""

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskbench import data
from maskbench.data import cache
from maskbench.data.encoded_images import EncodedImages
from maskbench.data.splits import Images, Splits, stratified_order
from maskbench.data.streaming import StreamedImages
from maskbench.errors import UsageError
from maskbench.runs.plan import load_data, make_plan
from tests.helpers.image_files import CLASSES, open_hub, picture, png, write_folders, write_hub, write_parquet
from tests.helpers.tiny_run import tiny_config


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def as_array(images: torch.Tensor, number: int) -> np.ndarray:
    return images[number].permute(1, 2, 0).numpy()


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", 0, 30)
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", 30, 30)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", 100, 9)
    splits = data.load_dataset(str(tmp_path), (12, 12), 3)
    assert splits.classes == tuple(CLASSES)
    assert splits.name == tmp_path.name
    assert splits.sizes == {"train": 60, "validation": 6, "test": 9}
    assert splits.train.labels.tolist() == [n % 3 for n in range(60)]
    assert (as_array(splits.train.pixels, 37) == np.asarray(picture(37))).all()
    assert (splits.train.stretch == 1).all()
    expected = splits.train.pixels.double().div(255)
    torch.testing.assert_close(splits.mean.double(), expected.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    std = expected.permute(1, 0, 2, 3).flatten(1).std(1, correction=0)
    torch.testing.assert_close(splits.std.double(), std, rtol=1e-6, atol=1e-7)


def test_image_folders_with_a_validation_split(tmp_path: Path) -> None:
    for split, first, count in (("train", 0, 30), ("val", 50, 12), ("test", 80, 9)):
        write_folders(tmp_path, split, first, count)
    splits = data.load_dataset(str(tmp_path), (12, 12), 3)
    assert splits.sizes == {"train": 30, "validation": 12, "test": 9}
    assert len(splits.fit) == 30, "nothing need be held out of train"
    assert not isinstance(splits.validation, torch.Tensor)
    assert torch.bincount(splits.train.labels).tolist() == [10, 10, 10]


def test_validation_serves_as_test_where_there_is_no_other(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 30)
    write_folders(tmp_path, "validation", 50, 12)
    assert data.load_dataset(str(tmp_path), (12, 12), 3).sizes == {"train": 30, "validation": 3, "test": 12}


def test_photographs_of_any_shape_share_a_canvas(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 15, rows=30, cols=20)
    write_folders(tmp_path, "train", 15, 15, rows=20, cols=40)
    write_folders(tmp_path, "test", 50, 3, rows=10, cols=10)
    splits = data.load_dataset(str(tmp_path), (16, 16), 3)
    assert splits.train.pixels.shape == (30, 3, 30, 32)  # the largest side, at most twice the model's 16
    canvas = 32 / 30
    shapes = {round(float(value), 5) for value in splits.train.stretch}
    assert shapes == {round(20 / 30 / canvas, 5), round(40 / 20 / canvas, 5)}
    small = splits.test.pixels[0]  # folders are read class by class: number 51 is the first cat
    resized = np.asarray(picture(51, 10, 10).resize((32, 30), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert (small.numpy() == resized).all()


def test_grey_and_colour(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 15)
    write_folders(tmp_path, "test", 50, 3)
    picture(0).convert("L").save(tmp_path / "train" / "cat" / "0000.png")
    assert data.load_dataset(str(tmp_path), (12, 12), 3).train.pixels.shape[1] == 3
    assert data.load_dataset(str(tmp_path), (12, 12), 1).train.pixels.shape[1] == 1
    with pytest.raises(UsageError, match="1, 3, 4 channels, not 2"):
        data.load_dataset(str(tmp_path), (12, 12), 2)


def test_decoded_once_and_again_when_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "train.parquet", 0, 30)
    write_parquet(tmp_path / "test.parquet", 50, 3)
    first = data.load_dataset(str(tmp_path), (12, 12), 3)
    data.load_dataset.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("maskbench.data.load.prepare_images", lambda *_: pytest.fail("prepared again"))
        again = data.load_dataset(str(tmp_path), (12, 12), 3)
    assert torch.equal(first.train.pixels, again.train.pixels)
    assert again.fingerprint == first.fingerprint
    data.load_dataset.cache_clear()
    write_parquet(tmp_path / "train.parquet", 1, 30)
    os.utime(tmp_path / "train.parquet", ns=(1, 1))
    changed = data.load_dataset(str(tmp_path), (12, 12), 3)
    assert changed.fingerprint != first.fingerprint
    assert not torch.equal(changed.train.pixels, first.train.pixels)


def test_fingerprint_is_of_content_not_of_place_or_size(tmp_path: Path) -> None:
    fingerprints = set()
    for name, size in (("a", 12), ("b", 12), ("b", 4)):
        write_folders(tmp_path / name, "train", 0, 15)
        write_folders(tmp_path / name, "test", 50, 3)
        fingerprints.add(data.load_dataset(str(tmp_path / name), (size, size), 3).fingerprint)
    assert len(fingerprints) == 1


def test_a_damaged_cache_is_packed_again(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 0, 30)
    write_parquet(tmp_path / "test.parquet", 50, 3)
    before = (
        set((cache.cache_folder() / "datasets").glob("*")) if (cache.cache_folder() / "datasets").exists() else set()
    )
    first = data.load_dataset(str(tmp_path), (12, 12), 3)
    (made,) = set((cache.cache_folder() / "datasets").glob("*")) - before
    pixels = first.train.pixels.clone()
    content = made.read_bytes()
    made.unlink()  # not in place: the file is mapped
    made.write_bytes(content[: len(content) // 2])
    data.load_dataset.cache_clear()
    with pytest.warns(UserWarning, match="preparing the data again"):
        again = data.load_dataset(str(tmp_path), (12, 12), 3)
    assert torch.equal(again.train.pixels, pixels)


def test_a_cache_that_cannot_be_written_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "train.parquet", 0, 30)
    write_parquet(tmp_path / "test.parquet", 50, 3)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MASKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="continuing without"):
        assert len(data.load_dataset(str(tmp_path), (12, 12), 3).train) == 30


def test_stratified_order_keeps_proportions_in_every_prefix() -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    order = stratified_order(labels)
    assert sorted(order.tolist()) == list(range(1000))
    for prefix in (10, 50, 100, 500):
        counts = torch.bincount(labels[order[:prefix]], minlength=3)
        expected = torch.tensor([0.6, 0.3, 0.1]) * prefix
        # Each image's place is its rank within the class plus less than one, over the class's size.
        assert (counts - expected).abs().max() <= 1
    assert order.tolist() == stratified_order(labels).tolist()
    assert order[:100].tolist() != sorted(order[:100].tolist())


def test_limit_is_the_same_images_for_all_and_leaves_test_whole() -> None:
    whole, fewer, few = (data.load_dataset("shapes", (16, 16), 1, limit) for limit in (None, 500, 100))
    assert fewer.sizes == {"train": 500, "validation": 50, "test": 2000}
    assert torch.bincount(few.train.labels).tolist() == [10] * 10
    kept = {pixels.numpy().tobytes() for pixels in fewer.train.pixels}
    assert all(pixels.numpy().tobytes() in kept for pixels in few.train.pixels)
    assert whole.fingerprint == few.fingerprint


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train" / "dog" / "0004.png").write_bytes(b"no image"), "cannot decode train/dog/0004"),
        (lambda root: (root / "test").rename(root / "other"), "no test split"),
        (lambda root: (root / "train").rename(root / "other"), "no training split"),
    ],
    ids=["broken image", "no test", "no train"],
)
def test_bad_folders_are_one_line(tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    write_folders(tmp_path, "train", 0, 15)
    write_folders(tmp_path, "test", 50, 3)
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        data.load_dataset(str(tmp_path), (12, 12), 3)
    assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 15)
    write_folders(tmp_path, "test", 50, 3)
    path = tmp_path / "train" / "dog" / "0004.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="cannot decode train/dog/0004.png"):
        data.load_dataset(str(tmp_path), (12, 12), 3)


def with_chunk(name: bytes, content: bytes, before: bytes) -> bytes:
    """A PNG with one chunk more, in front of the chunk called `before`."""
    whole, summed = png(0), name + content
    at = whole.index(before) - 4
    return whole[:at] + struct.pack(">I", len(content)) + summed + struct.pack(">I", zlib.crc32(summed)) + whole[at:]


LONG_TEXT = b"Comment\0\0" + zlib.compress(b"a" * 2**21)
HUGE = struct.pack(">II", 20_000, 20_000) + b"\x08\x02\0\0\0"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_chunk(b"zTXt", LONG_TEXT, b"IDAT"), "Decompressed data too large"),
        (with_chunk(b"zTXt", LONG_TEXT, b"IEND"), "Decompressed data too large"),
        (with_chunk(b"gAMA", b"\0", b"IDAT"), "Truncated gAMA chunk"),
        (with_chunk(b"IHDR", HUGE, b"IDAT"), "Image size .400000000 pixels. exceeds limit"),
        (b"P6 4 four 255 ", "invalid literal"),
    ],
    ids=["long text before", "long text after", "gamma", "bomb", "no number"],
)
@pytest.mark.parametrize("memory_gib", [4, 0])
def test_whatever_pillow_makes_of_an_image_it_is_named(
    content: bytes, reason: str, memory_gib: float, tmp_path: Path
) -> None:
    write_folders(tmp_path, "train", 0, 6)
    write_folders(tmp_path, "test", 50, 3)
    (tmp_path / "train" / "dog" / "0004.png").write_bytes(content)
    message = f"cannot decode train/dog/0004.png in .*: .*{reason}.*; repair or remove it$"
    with pytest.raises(UsageError, match=message) as caught:
        data.load_dataset(str(tmp_path), (12, 12), 3, None, None, memory_gib)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    """A UsageError is a ValueError, as Pillow's are."""
    images = EncodedImages.from_files([tmp_path / "gone.png"], ["gone.png"], [0])
    with pytest.raises(UsageError, match=r"^cannot read gone.png: No such file or directory; bring it back$"):
        images.decode(0, (12, 12, 3))
    (tmp_path / "gone.png").write_bytes(b"nothing")
    with pytest.raises(
        UsageError, match=r"^cannot decode gone.png: it is no image of a format that is read[^;]*; repair or remove it$"
    ):
        images.decode(0, (12, 12, 3))


@pytest.mark.parametrize("name", ["train/dog/0004.png", "train.tar"])
def test_a_link_to_nothing_is_named(name: str, tmp_path: Path) -> None:
    write_folders(tmp_path, "train", 0, 3)
    (tmp_path / name).symlink_to("../elsewhere")
    wds = "wds/" if name.endswith(".tar") else ""
    message = f"^cannot read {tmp_path}/{name}: No such file or directory: ../elsewhere; bring it back, or remove"
    with pytest.raises(UsageError, match=message) as caught:
        data.load_dataset(f"{wds}{tmp_path}", (12, 12), 3)
    assert "\n" not in str(caught.value)


def as_parquet(root: Path, labels: dict[str, list[Any]], names: bool = True) -> str:
    for split, of_split in labels.items():
        write_parquet(root / f"{split}.parquet", 0, len(of_split), names)
        table = pyarrow.parquet.read_table(root / f"{split}.parquet")
        table = table.set_column(1, "label", pyarrow.array(of_split))
        pyarrow.parquet.write_table(table, root / f"{split}.parquet")
    return str(root)


def as_shards(root: Path, labels: dict[str, list[Any]]) -> str:
    """Where a label is -1 it is so in .cls for every other image, and is not there for the rest."""
    root.mkdir(exist_ok=True)
    for split, of_split in labels.items():
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for number, label in enumerate(of_split):
                members = {"png": png(number), "cls": str(label).encode()}
                for suffix in ("png", "cls") if label != -1 or number % 2 else ("png",):
                    member = tarfile.TarInfo(f"{number:04}.{suffix}")
                    member.size = len(members[suffix])
                    tar.addfile(member, io.BytesIO(members[suffix]))
    return f"wds/{root}"


WRITERS = {"parquet": as_parquet, "numbers": partial(as_parquet, names=False), "wds": as_shards, "hfds": write_hub}
KNOWN, WITHHELD = [number % 3 for number in range(30)], [-1] * 9


@pytest.fixture(params=WRITERS)
def load(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, list[Any]]], Splits]:
    """Writes a data set of these labels by split, and loads it."""
    monkeypatch.setattr("maskbench.data.huggingface.open_splits", open_hub)
    return lambda labels: data.load_dataset(WRITERS[request.param](tmp_path / "data", labels), (12, 12), 3)


def test_a_test_set_whose_labels_are_withheld_is_none(load: Callable[[dict[str, list[Any]]], Splits]) -> None:
    """As that of ImageNet on Hugging Face is: what is called validation is the test set."""
    splits = load({"train": KNOWN, "validation": KNOWN[:6], "test": WITHHELD})
    assert splits.sizes == {"train": 30, "validation": 3, "test": 6} and len(splits.classes) == 3
    assert splits.train.labels.tolist() == KNOWN and splits.test.labels.tolist() == KNOWN[:6]


def test_without_another_there_is_no_test_set(load: Callable[[dict[str, list[Any]]], Splits]) -> None:
    with pytest.raises(UsageError, match="no test split in .* beside train, with labels"):
        load({"train": KNOWN, "test": WITHHELD})


def test_training_images_whose_labels_are_withheld_have_none(load: Callable[[dict[str, list[Any]]], Splits]) -> None:
    splits = load({"train": WITHHELD, "test": KNOWN})
    assert splits.sizes == {"train": 9, "validation": 1, "test": 0} and splits.classes == ()
    assert splits.train.labels.tolist() == [0] * 9


def test_some_negative_labels_are_refused(load: Callable[[dict[str, list[Any]]], Splits]) -> None:
    message = "^2 of the 32 images of the split train in .*data have no label, or a negative one; remove them"
    with pytest.raises(UsageError, match=message) as caught:
        load({"train": [*KNOWN, -1, -1], "test": KNOWN})
    assert "\n" not in str(caught.value)


def test_a_withheld_test_set_is_not_unpacked(tmp_path: Path) -> None:
    dataset = as_parquet(tmp_path, {"train": KNOWN, "val": KNOWN, "test": WITHHELD})
    splits = data.load_dataset(dataset, (12, 12), 3, None, None, 0)
    assert isinstance(splits.train, StreamedImages)
    assert Path(splits.train.encoded.files[0]).stat().st_size == 2 * sum(len(png(number)) for number in range(30))


def test_labels_of_parquet_that_no_class_has(tmp_path: Path) -> None:
    dataset = as_parquet(tmp_path, {"train": [*KNOWN, 3], "test": KNOWN})
    with pytest.raises(
        UsageError, match="^row 30 of train.parquet in .* has the label 3, but only 3 classes have names"
    ):
        data.load_dataset(dataset, (12, 12), 3)
    dataset = as_parquet(tmp_path, {"train": [*KNOWN, None], "test": KNOWN})
    with pytest.raises(UsageError, match="^row 30 of train.parquet in .* has no label; remove it"):
        data.load_dataset(dataset, (12, 12), 3)


def test_bad_parquet_is_one_line(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", 50, 3)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UsageError, match="cannot read .*train.parquet"):
        data.load_dataset(str(tmp_path), (12, 12), 3)
    write_parquet(tmp_path / "train.parquet", 0, 30, image="photo")
    with pytest.raises(UsageError, match="has no column 'image'; its columns are photo, label"):
        data.load_dataset(str(tmp_path), (12, 12), 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar10",
            "unknown data set 'cifar10'. Known: shapes, torch/cifar10 and the like, hfds/NAME, wds/FOLDER, or a path",
        ),
        ("./nowhere", "no folder nowhere"),
        ("torch/cifar10", "torch/cifar10 is not in .*: add --download to `maskbench run`, or give a path"),
        ("torch/cifar", "unknown data set 'torch/cifar'. Did you mean torch/cifar10"),
    ],
)
def test_unknown_data_sets(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        data.load_dataset(name, (12, 12), 3)


def write_mnist(root: Path) -> None:
    """Generated pictures in the files of torchvision's MNIST, whose reader checks no sums."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 40), ("t10k", 20)):
        values = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 0x0803, count, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + values.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x0801, count) + labels.tobytes())


def test_torchvisions_data_sets_once_they_are_there(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    splits = data.load_dataset("torch/mnist", (28, 28), 1, data_dir=str(tmp_path))
    assert splits.name == "mnist"
    assert splits.sizes == {"train": 40, "validation": 4, "test": 20}
    assert splits.classes[3] == "3 - three"
    first = np.random.default_rng(40).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert (splits.train.pixels[:, 0].numpy() == first).all()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Parquet files or images"):
        data.load_dataset(str(tmp_path), (12, 12), 3)


def test_real_photographs(clothing: Path) -> None:
    splits = data.load_dataset(str(clothing), (64, 64), 3)
    assert splits.sizes == {"train": 3068, "validation": 341, "test": 372}
    assert len(splits.classes) == 10
    assert splits.train.stretch.unique().numel() > 2


def test_a_seed_may_choose_the_images(tmp_path: Path) -> None:
    """With resample the seed says which images are kept and held out, for all strategies alike; the test images and a
    run's name without it stay the same."""
    write_folders(tmp_path / "photos", "train", 0, 60)
    write_folders(tmp_path / "photos", "test", 100, 6)

    def load(strategy: str, seed: int, **changes: Any) -> tuple[Tensor, Tensor, Tensor]:
        settings = {"data__dataset": str(tmp_path / "photos"), "data__limit": 40, "seed": seed, **changes}
        _, splits = load_data(make_plan(tiny_config(tmp_path, strategy, **settings)))
        assert isinstance(splits.train, Images) and isinstance(splits.test, Images)
        assert isinstance(splits.validation, Tensor)
        return splits.train.pixels, splits.train.pixels[splits.validation], splits.test.pixels

    fixed = [load("random", seed) for seed in (1, 2)]
    assert all(torch.equal(one, two) for one, two in zip(*fixed, strict=True))
    drawn = {seed: load("random", seed, data__resample=True) for seed in (1, 2)}
    assert not torch.equal(drawn[1][0], drawn[2][0]) and not torch.equal(drawn[1][1], drawn[2][1])
    assert torch.equal(drawn[1][2], drawn[2][2]), "test is test"
    again = load("gmml", 2, data__resample=True)
    assert all(torch.equal(one, two) for one, two in zip(drawn[2], again, strict=True))
    all_images = {image.numpy().tobytes() for image in load("random", 0, data__limit=None)[0]}
    assert {image.numpy().tobytes() for image in drawn[1][0]} < all_images and len(drawn[1][0]) == 40
    plain, off = (make_plan(tiny_config(tmp_path, "random", **changes)).run_id for changes in
                  ({}, {"data__resample": None}))  # fmt: skip
    assert plain == off != make_plan(tiny_config(tmp_path, "random", data__resample=True)).run_id
