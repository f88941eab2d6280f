"""File types and pixels of docs/data.md: each row of the tables is a test."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.documented_forms import (
    Builder,
    Form,
    check_rows,
    documented_rows,
    folders,
    form,
    write,
    write_images,
)
from tests.helpers.image_files import picture, png

FILES: dict[str, Builder] = {}
PIXELS: dict[str, Builder] = {}


def with_image(root: Path, name: str, content: bytes) -> Path:
    """The third image in order is `name`, of the class dog."""
    folders(root)
    (root / "train" / "dog" / "0001.png").unlink()
    write(root / "train" / "dog" / name, content)
    return root


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


LOSSLESS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "`.png`": ("PNG", ["0.png", "0.PNG"], {}),
    "`.bmp`": ("BMP", ["0.bmp"], {}),
    "`.ppm`": ("PPM", ["0.ppm"], {}),
    "`.tif`, `.tiff`": ("TIFF", ["0.tif", "0.tiff"], {}),
    "`.webp`": ("WEBP", ["0.webp"], {"lossless": True}),
    "a wrong ending, e.g. a PNG called `.jpg`": ("PNG", ["0.jpg"], {}),
}


def _lossless(kind: str, names: list[str], how: dict[str, Any]) -> Builder:
    def build(root: Path) -> Iterator[Form]:
        for name in names:
            encoded = saved(picture(9), kind, **how)
            yield Form(with_image(root / name, name, encoded), pixels=np.asarray(picture(9)))

    return build


FILES |= {name: _lossless(*how) for name, how in LOSSLESS.items()}


@form(FILES, "`.jpg`, `.jpeg`")
def _jpeg(root: Path) -> Iterator[Form]:
    for name in ("0.jpg", "0.jpeg"):
        grey = Image.new("RGB", (12, 12), (120, 120, 120))
        yield Form(with_image(root / name, name, saved(grey, "JPEG")), pixels=np.asarray(grey))


@form(FILES, "`.gif`")
def _gif(root: Path) -> Iterator[Form]:
    few = picture(9).quantize(16)
    yield Form(with_image(root, "0.gif", saved(few, "GIF")), pixels=np.asarray(few.convert("RGB")))


@form(FILES, "an animation: its first frame")
def _animation(root: Path) -> Iterator[Form]:
    first, second = picture(9).quantize(16), picture(10).quantize(16)
    content = saved(first, "GIF", save_all=True, append_images=[second])
    yield Form(with_image(root, "0.gif", content), pixels=np.asarray(first.convert("RGB")))


@form(FILES, "`.jfif`, `.avif`, `.heic`, `.jp2`, `.pgm` and others")
def _others(root: Path) -> Iterator[Form]:
    yield Form(write_images(folders(root), ["train/cat/9.heic"]))


@form(FILES, "no ending")
def _no_ending(root: Path) -> Iterator[Form]:
    yield Form(write_images(folders(root), ["train/cat/9"]))


@form(FILES, "damaged, cut off or empty files, all at once")
def _damaged(root: Path) -> Iterator[Form]:
    for number, content in enumerate((b"no image", png(0)[:200], b"")):
        write(folders(root) / "train" / "cat" / f"9{number}.png", content)
    yield Form(root)


@form(FILES, "another format with one of these endings, e.g. PostScript")
def _other_format(root: Path) -> Iterator[Form]:
    for kind in ("EPS", "PDF", "TGA", "ICO"):
        yield Form(with_image(root / kind, "0.png", saved(picture(9), kind)))


@form(FILES, "more than 256 MiB")
def _large(root: Path) -> Iterator[Form]:
    dataset = with_image(root, "0.png", png(0))
    os.truncate(dataset / "train" / "dog" / "0.png", 2**28 + 1)  # takes no room on the disk
    yield Form(dataset)


def pixels(name: str, image: Image.Image, expected: np.ndarray, kind: str = "PNG", **how: Any) -> None:
    def build(root: Path) -> Iterator[Form]:
        yield Form(with_image(root, f"0.{kind.lower()}", saved(image, kind, **how)), pixels=expected)

    PIXELS[name] = build


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) from colours (H, W, 3) and alpha (H, W), both in [0, 255]."""
    share = alpha[..., None] / 255
    return np.round(colours * share + 255 * (1 - share)).astype(np.uint8)


RGB, GREY = np.asarray(picture(9)), np.asarray(picture(9).convert("L"))
ALPHA = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
PALETTE = picture(9).quantize(16)
CLEAR = np.where(np.asarray(PALETTE) == 3, 0, 255)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # to be turned clockwise by a quarter
BLACK_AND_WHITE = Image.fromarray(np.where(GREY > 128, 255, 0).astype(np.uint8)).convert("1")
pixels("grey, 8 bits (`L`)", Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2))
pixels("black and white, 1 bit (`1`)", BLACK_AND_WHITE, np.asarray(BLACK_AND_WHITE.convert("RGB")))
pixels("palette (`P`)", PALETTE, np.asarray(PALETTE.convert("RGB")))
pixels("colour (`RGB`)", picture(9), RGB)
pixels("print colours (`CMYK`)", Image.fromarray(255 - RGB).convert("CMYK"), 255 - RGB, "TIFF")
pixels("colour and alpha (`RGBA`): on white", Image.fromarray(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA))
pixels("grey and alpha (`LA`): on white", Image.fromarray(np.dstack([GREY, ALPHA])),
       on_white(np.repeat(GREY[..., None], 3, 2), ALPHA))  # fmt: skip
pixels("palette with a transparent colour: on white", PALETTE,
       on_white(np.asarray(PALETTE.convert("RGB")), CLEAR), transparency=3)  # fmt: skip
pixels("EXIF orientation: turned upright", picture(9), np.rot90(RGB, -1), exif=EXIF)
pixels("broken EXIF: as it is", picture(9), RGB, exif=b"Exif\0\0broken")


@form(PIXELS, "`--in-chans 1`: grey")
def _one_channel(root: Path) -> Iterator[Form]:
    yield Form(with_image(root, "0.png", png(9)), pixels=GREY, options={"channels": 1})


@form(PIXELS, "`--in-chans 4`: with alpha")
def _four_channels(root: Path) -> Iterator[Form]:
    with_alpha = np.dstack([RGB, np.full((12, 12), 255, np.uint8)])
    yield Form(with_image(root, "0.png", png(9)), pixels=with_alpha, options={"channels": 4})


@form(PIXELS, "`--in-chans 2` from files")
def _two_channels(root: Path) -> Iterator[Form]:
    yield Form(folders(root), options={"channels": 2})


RAMP = np.linspace(0, 40_000, 144).reshape(12, 12)


def deep(name: str, kind: str, *contents: bytes) -> None:
    def build(root: Path) -> Iterator[Form]:
        for number, content in enumerate(contents):
            yield Form(with_image(root / str(number), f"0.{kind}", content))

    PIXELS[name] = build


def png_of_16_bits(channels: int) -> bytes:
    """Pillow writes no colours of 16 bits."""
    lines = b"".join(b"\0" + np.repeat(row, channels).astype(">u2").tobytes() for row in RAMP)
    header = struct.pack(">IIBBBBB", 12, 12, 16, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    packed = (struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


deep("16-bit grey PNG", "png", png_of_16_bits(1))
deep("16-bit colour PNG", "png", png_of_16_bits(3))
deep("16-bit grey TIFF", "tif", saved(Image.fromarray(RAMP.astype(np.uint16)), "TIFF"))
deep("32-bit and float TIFF", "tif", saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
     saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))  # fmt: skip

TABLES = {"File types": FILES, "Pixels": PIXELS}


@pytest.mark.parametrize(("section", "name"), [(section, name) for section, table in TABLES.items() for name in table])
def test_each_row_of_the_tables(section: str, name: str, tmp_path: Path) -> None:
    check_rows(section, TABLES[section], name, tmp_path)


@pytest.mark.parametrize("section", TABLES)
def test_no_row_is_without_a_test(section: str) -> None:
    assert documented_rows(section).keys() == TABLES[section].keys()
