"""What files say about their pixels: depth, orientation, transparency, frames; and what Pillow warns of."""

import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from maskbench import data
from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_source import EncodedDataset
from maskbench.data.prepare import prepare_images
from maskbench.data.splits import Images
from maskbench.data.streaming import StreamedImages
from maskbench.errors import UsageError
from tests.helpers.image_files import picture, png

ROWS, COLS = 10, 16


def written(image: Image.Image, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def decoded(folder: Path, encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    path = folder / "image"
    path.write_bytes(encoded)
    return EncodedImages.from_files([path], ["image"], [0]).decode(0, shape)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png(colour_type: int, channels: int) -> bytes:
    """10 x 16 pixels of 16 bits, all 4,000: a value of 12 bits."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", COLS, ROWS, 16, colour_type, 0, 0, 0))
    row = b"\0" + struct.pack(">H", 4000) * COLS * channels
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * ROWS)) + chunk(b"IEND", b"")


def deep_tiff(mode: str) -> bytes:
    values = {"I;16": np.uint16, "I;16B": np.dtype(">u2"), "I": np.int32, "F": np.float32}[mode]
    return written(Image.fromarray(np.full((ROWS, COLS), 4000, values)), "TIFF")


def deep_colour_tiff() -> bytes:
    """10 x 16 pixels of 3 x 16 bits, uncompressed; Pillow reads such files but does not write them."""
    pixels = struct.pack("<H", 4000) * ROWS * COLS * 3
    entries = [(256, 4, 1, COLS), (257, 4, 1, ROWS), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 14), (277, 3, 1, 3), (278, 4, 1, ROWS), (279, 4, 1, len(pixels))]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0" + struct.pack("<I", 14 + len(pixels)) + struct.pack("<3H", 16, 16, 16) + pixels + directory + b"\0" * 4
    )


DEEP: dict[str, Callable[[], bytes]] = {
    "grey PNG": lambda: deep_png(0, 1),
    "grey PNG with alpha": lambda: deep_png(4, 2),
    "PNG in colour": lambda: deep_png(2, 3),
    "PNG in colour with alpha": lambda: deep_png(6, 4),
    "TIFF, 16 bits": lambda: deep_tiff("I;16"),
    "TIFF, 16 bits, big-endian": lambda: deep_tiff("I;16B"),
    "TIFF, 32 bits": lambda: deep_tiff("I"),
    "TIFF, float": lambda: deep_tiff("F"),
    "TIFF in colour, 16 bits": deep_colour_tiff,
    "PGM, 16 bits": lambda: b"P5 16 10 65535\n" + struct.pack(">H", 4000) * ROWS * COLS,
    "PGM, 12 bits": lambda: b"P5 16 10 4095\n" + struct.pack(">H", 4000) * ROWS * COLS,
    "PPM, 16 bits": lambda: b"P6 16 10 65535\n" + struct.pack(">H", 4000) * ROWS * COLS * 3,
    "PPM, plain, 12 bits": lambda: b"P3 16 10 4095\n" + b"4000 " * ROWS * COLS * 3,
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("form", DEEP)
def test_more_than_8_bits_are_refused_by_name(form: str, channels: int, tmp_path: Path) -> None:
    """In 8 bits 4,000 would be white where it is clipped, and nearly black where the highest bits are taken."""
    with pytest.raises(UsageError, match="image has more than 8 bits per channel .*; convert the images to 8 bits"):
        decoded(tmp_path, DEEP[form](), (ROWS, COLS, channels))


@pytest.mark.parametrize("values", [b"P5 16 10 255\n", b"P5 16 10 15\n"])
def test_8_bits_and_fewer_are_read(values: bytes, tmp_path: Path) -> None:
    largest = int(values.split()[3])
    found = decoded(tmp_path, values + bytes([largest]) * ROWS * COLS, (ROWS, COLS, 1))
    assert (found == 255).all()


def in_folders(root: Path, images: list[bytes]) -> str:
    for number, image in enumerate(images):
        for split in ("train", "test"):
            path = root / split / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    return str(root)


def in_parquet(root: Path, images: list[bytes]) -> str:
    root.mkdir(exist_ok=True)
    rows = [{"bytes": image, "path": None} for image in images]
    for split in ("train", "test"):
        table = pyarrow.table({"image": rows, "label": [number % 2 for number in range(len(images))]})
        pyarrow.parquet.write_table(table, root / f"{split}.parquet")
    return str(root)


def in_shards(root: Path, images: list[bytes]) -> str:
    root.mkdir(exist_ok=True)
    for split in ("train", "test"):
        with tarfile.open(root / f"{split}-0.tar", "w") as tar:
            for number, image in enumerate(images):
                for suffix, content in (("png", image), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"wds/{root}"


def in_arrow(root: Path, images: list[bytes]) -> str:
    """As the library datasets reads Parquet files; skipped where it is not installed."""
    pytest.importorskip("datasets")
    in_parquet(root / "data", images)
    return f"hfds/{root}/data"


READERS = {"folders": in_folders, "parquet": in_parquet, "wds": in_shards, "hfds": in_arrow}


@pytest.mark.parametrize("gib", [4, 0], ids=["packed", "streamed"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_and_turns_and_composites(reader: str, gib: float, tmp_path: Path) -> None:
    """All read pixels in one place; here that they do."""
    deep = READERS[reader](tmp_path / "deep", [png(0), deep_png(2, 3)])
    with pytest.raises(UsageError, match="has more than 8 bits per channel"):
        data.load_dataset(deep, (12, 12), 3, None, None, gib)
    clear = Image.new("RGBA", (12, 12), (200, 0, 0, 0))
    turned = picture(3)
    exif = Image.Exif()
    exif[0x0112] = 3
    place = READERS[reader](tmp_path / "good", [written(clear, "PNG"), written(turned, "PNG", exif=exif)])
    train = data.load_dataset(place, (12, 12), 3, None, None, gib).train
    assert isinstance(train, StreamedImages if gib == 0 else Images)
    images = train.take(train.labels.new_tensor([0, 1])).pixels.permute(0, 2, 3, 1).numpy()
    assert (images[0] == 255).all()
    assert (images[1] == np.asarray(turned)[::-1, ::-1]).all()


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # as the EXIF standard names where row 0 and column 0 are
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored[::-1].swapaxes(0, 1),  # right, top
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int, form: str, tmp_path: Path) -> None:
    """A photograph taken upright is stored lying, 10 x 16: size, stretch and pixels are those of 16 x 10."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"JPEG": {"subsampling": 0, "quality": 95}, "WEBP": {"lossless": True}}.get(form, {})
    encoded = written(picture(7, ROWS, COLS), form, exif=exif, **how)
    with Image.open(io.BytesIO(written(picture(7, ROWS, COLS), form, **how))) as image:
        upright = UPRIGHT[orientation](np.asarray(image.convert("RGB")))
    path = tmp_path / "photo"
    path.write_bytes(encoded)
    images = EncodedImages.from_files([path] * 2, ["photo"] * 2, [0, 0])
    prepared = prepare_images(EncodedDataset({"train": images}, ()), (32, 32), 3, 4).splits["train"]
    assert isinstance(prepared, Images)
    assert prepared.pixels.shape == (2, 3, *upright.shape[:2])
    assert (prepared.stretch == 1).all()
    assert (prepared.pixels[0].permute(1, 2, 0).numpy() == upright).all()


def test_a_turned_photograph_is_reduced_along_the_right_sides(tmp_path: Path) -> None:
    """A JPEG of 80 x 640 that stands upright, on a canvas of 80 x 10: an eighth of its size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient = np.repeat(np.linspace(0, 255, 640).astype(np.uint8)[None, :, None], 80, 0).repeat(3, 2)
    found = decoded(tmp_path, written(Image.fromarray(gradient), "JPEG", exif=exif, quality=95), (80, 10, 3))
    assert found[:, :, 0].std(1).max() < 2
    assert np.abs(found[:, 5, 0] - np.linspace(1.6, 253.4, 80)).max() < 4


BROKEN_EXIF = {
    "no TIFF header": b"Exif\0\0nonsense",
    "cut off": b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01",
    "offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "nothing": b"Exif\0\0",
    "orientation 9": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
    "orientation is text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0a\0\0\0\0\0\0\0",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", BROKEN_EXIF)
def test_broken_exif_is_survived(exif: str, form: str, tmp_path: Path) -> None:
    plain = written(picture(7, ROWS, COLS), form)
    broken = written(picture(7, ROWS, COLS), form, exif=BROKEN_EXIF[exif])
    shape = (ROWS, COLS, 3)
    assert (decoded(tmp_path, broken, shape) == decoded(tmp_path, plain, shape)).all()


def transparent(mode: str) -> tuple[bytes, np.ndarray, np.ndarray]:
    """An encoded image of `mode`, its colours (H, W, 3), and how opaque each pixel is (H, W) in [0, 255]."""
    rng = np.random.default_rng(5)
    colours = rng.integers(0, 256, (ROWS, COLS, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, (ROWS, COLS), dtype=np.uint8)
    grey = colours[..., :1].repeat(3, 2)
    if mode == "RGBA":
        return written(Image.fromarray(np.dstack([colours, alpha])), "PNG"), colours, alpha
    if mode == "LA":
        return written(Image.fromarray(np.dstack([grey[..., 0], alpha])), "PNG"), grey, alpha
    index = rng.integers(0, 8, (ROWS, COLS), dtype=np.uint8)
    palette = rng.integers(0, 256, (8, 3), dtype=np.uint8)
    if mode == "PA":
        paletted = Image.fromarray(index, "P")
        paletted.putpalette(palette.tobytes())
        paletted = paletted.convert("PA")
        paletted.putalpha(Image.fromarray(alpha))
        return written(paletted, "TIFF"), palette[index], alpha
    if mode.startswith("P"):
        image = Image.fromarray(index)
        image.putpalette(palette.tobytes())  # which makes it one of mode P
        if mode == "P, one colour":
            return written(image, "PNG", transparency=3), palette[index], np.where(index == 3, 0, 255)
        if mode == "P, GIF":
            return written(image, "GIF", transparency=3), palette[index], np.where(index == 3, 0, 255)
        opaque = np.array([0, 40, 80, 120, 160, 200, 240, 255], np.uint8)
        return written(image, "PNG", transparency=opaque.tobytes()), palette[index], opaque[index]
    if mode == "L, one grey":
        index *= 30
        return (
            written(Image.fromarray(index), "PNG", transparency=90),
            index[..., None].repeat(3, 2),
            np.where(index == 90, 0, 255),
        )
    colours[3:6] = (10, 20, 30)
    hidden = (colours == (10, 20, 30)).all(-1)
    return written(Image.fromarray(colours), "PNG", transparency=(10, 20, 30)), colours, np.where(hidden, 0, 255)


ALPHA = ("RGBA", "LA", "PA", "P", "P, one colour", "P, GIF", "L, one grey", "RGB, one colour")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ALPHA)
def test_what_is_transparent_lies_on_white(mode: str, tmp_path: Path) -> None:
    """With 3 channels and with 1, at the size of the file and smaller; what is invisible does not shine through."""
    encoded, colours, alpha = transparent(mode)
    share = alpha[..., None] / 255
    exact = colours * share + 255 * (1 - share)
    found = decoded(tmp_path, encoded, (ROWS, COLS, 3))
    assert np.abs(found - exact).max() <= 1
    assert (found[alpha == 0] == 255).all()
    grey = decoded(tmp_path, encoded, (ROWS, COLS, 1))
    assert np.abs(grey[..., 0] - exact @ [0.299, 0.587, 0.114]).max() <= 2
    half = decoded(tmp_path, encoded, (1, 1, 3))
    assert np.abs(half[0, 0] - exact.mean((0, 1))).max() <= 25, "weights of a triangle, not of a box"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ALPHA)
def test_four_channels_keep_alpha(mode: str, tmp_path: Path) -> None:
    encoded, colours, alpha = transparent(mode)
    found = decoded(tmp_path, encoded, (ROWS, COLS, 4))
    assert (found[..., 3] == alpha).all()
    assert (found[..., :3] == colours).all()


def dataset_of(folder: Path, contents: list[bytes]) -> EncodedDataset:
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.png")
        paths[-1].write_bytes(content)
    return EncodedDataset(
        {"train": EncodedImages.from_files(paths, [path.name for path in paths], [0] * len(paths))}, ()
    )


@pytest.mark.parametrize("gib", [4, 0], ids=["packed", "streamed"])
def test_a_warning_of_pillow_names_its_image(gib: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all images of which it says the same."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    contents = [written(picture(0, 8, 8), "PNG"), *[written(picture(1, 12, 12), "PNG")] * 3]
    with pytest.warns(Warning, match=r"^1.png and 2 more: Image size \(144 pixels\) exceeds limit of 100") as caught:
        prepared = prepare_images(dataset_of(tmp_path, contents), (12, 12), 3, gib)
    assert len(caught) == 1
    prepared.splits["train"].take(prepared.splits["train"].labels)  # where it would be an error, warnings are


def test_only_the_first_frame_is_read_and_a_warning_says_so(tmp_path: Path) -> None:
    frames = [picture(number, 8, 8).quantize(16) for number in range(3)]
    first = np.asarray(frames[0].convert("RGB"))
    for form in ("GIF", "TIFF", "PNG"):
        stored = frames if form == "GIF" else [frame.convert("RGB") for frame in frames]
        several = written(stored[0], form, save_all=True, append_images=stored[1:])
        with pytest.warns(UserWarning, match="^1.png: only the first of its frames or pages is read"):
            prepared = prepare_images(dataset_of(tmp_path, [png(0, 8, 8), several]), (8, 8), 3, 4).splits["train"]
        assert isinstance(prepared, Images)
        assert (prepared.pixels[1].permute(1, 2, 0).numpy() == first).all()


def test_the_fingerprint_covers_what_is_made_of_the_pixels(tmp_path: Path) -> None:
    """Ordinary images keep the fingerprint that they have in older records; turned and transparent ones get another."""

    def fingerprint(content: bytes) -> str:
        return prepare_images(dataset_of(tmp_path, [png(0), content]), (12, 12), 3, 4).fingerprint

    assert fingerprint(png(1)) == "b4ae1d89f5474126"
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (written(picture(1), "PNG", exif=exif), transparent("RGBA")[0]):
        plain = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in (png(0), content))).digest()
        older = hashlib.sha256(repr(()).encode() + b"train" + plain + repr([0, 0]).encode()).hexdigest()[:16]
        assert fingerprint(content) != older
