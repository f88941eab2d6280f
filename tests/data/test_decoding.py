"""Decoded images, against Pillow alone and against a resize that is written out."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskbench.data.encoded_images import EncodedImages
from maskbench.errors import UsageError

WAYS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True, "quality": 50},
    "with a comment": {"comment": b"two words", "quality": 95},
}


def picture(rows: int, cols: int, mode: str = "RGB") -> Image.Image:
    """Smooth in parts and rough in others, so that every way of interpolating shows."""
    rng = np.random.default_rng(rows)
    coarse = Image.fromarray(rng.integers(0, 256, (rows // 6 + 2, cols // 6 + 2, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((cols, rows), Image.Resampling.NEAREST)).copy()
    pixels[rows // 2 :] = np.asarray(coarse.resize((cols, rows), Image.Resampling.BICUBIC))[rows // 2 :]
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (rows, cols), dtype=np.uint8)))
    return image.convert(mode)


def written(image: Image.Image, form: str = "JPEG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def decoded(folder: Path, encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    path = folder / "image"
    path.write_bytes(encoded)
    return EncodedImages.from_files([path], ["image"], [0]).decode(0, shape)


def by_pillow(encoded: bytes, mode: str = "RGB", draft: tuple[int, int] | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        if draft is not None:
            image.draft(None, draft)
        return np.asarray(image.convert(mode))


@pytest.fixture
def no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("left to Pillow")

    monkeypatch.setattr("maskbench.data.encoded_images._decode_with_pillow", load)


@pytest.mark.usefixtures("no_pillow")
@pytest.mark.parametrize("reduced", [1, 2, 4, 8])
@pytest.mark.parametrize("way", WAYS)
def test_jpegs_in_colour_are_what_pillow_makes_of_them(
    way: str, reduced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, at sizes that divide by nothing, also where they are decoded at a fraction of their size."""
    monkeypatch.setattr("maskbench.data.encoded_images.REDUCING_GAP", 1.0)
    monkeypatch.setattr("maskbench.data.encoded_images._resize", lambda pixels, *_: pixels)
    rows, cols = 203 // reduced, 331 // reduced
    encoded = written(picture(203, 331), **WAYS[way])
    expected = by_pillow(encoded, draft=(cols, rows))
    assert expected.shape == (-(-203 // reduced), -(-331 // reduced), 3)
    assert (decoded(tmp_path, encoded, (rows, cols, 3)) == expected).all()


@pytest.mark.parametrize(
    ("mode", "form", "channels"),
    [
        *itertools.product(["L", "CMYK"], ["JPEG"], [1, 3, 4]),
        *itertools.product(["L", "1", "P"], ["PNG"], [1, 3, 4]),
        *itertools.product(["P"], ["GIF"], [1, 3, 4]),
        ("RGBA", "PNG", 4),
    ],
)
def test_other_images_are_pillows(mode: str, form: str, channels: int, tmp_path: Path) -> None:
    """Those with transparent pixels on fewer channels are in test_pixel_modes.py."""
    encoded = written(picture(30, 47, mode), form)
    expected = by_pillow(encoded, {1: "L", 3: "RGB", 4: "RGBA"}[channels]).reshape(30, 47, channels)
    assert (decoded(tmp_path, encoded, (30, 47, channels)) == expected).all()


def test_what_only_pillow_puts_up_with(tmp_path: Path) -> None:
    """Bytes that mean nothing, before the marker of the end: photographs with them are about."""
    encoded = written(picture(40, 40))
    odd = encoded[:-2] + b"\x12\x34" + encoded[-2:]
    assert (decoded(tmp_path, odd, (40, 40, 3)) == by_pillow(odd)).all()


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_half_a_jpeg_is_refused(kept: float, tmp_path: Path) -> None:
    encoded = written(picture(80, 80))
    with pytest.raises(UsageError, match="cannot decode image: image file is truncated"):
        decoded(tmp_path, encoded[: int(kept * len(encoded))], (80, 80, 3))


def weights(many: int, few: int) -> np.ndarray:
    """(few, many): a triangle around the middle of each new pixel, as wide as the steps, each row's sum 1."""
    step = many / few
    middles = (np.arange(few)[:, None] + 0.5) * step
    triangles = np.maximum(0, 1 - np.abs(np.arange(many) + 0.5 - middles) / max(step, 1))
    return triangles / triangles.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(40, 60), (119, 61), (150, 90), (200, 300)])
def test_resizing_is_bilinear_and_antialiased(size: tuple[int, int], tmp_path: Path) -> None:
    """Values are rounded after each of two axes, so that each may be half a level off, and weights are integers, which
    leaves a tenth of a level for sums of some 10 of them in 15 bits. Pillow, whose weights are finer, is no closer."""
    image = picture(120, 91)
    found = decoded(tmp_path, written(image, "PNG"), (*size, 3))
    exact = np.einsum("rh,cw,hwk->rck", weights(120, size[0]), weights(91, size[1]), np.asarray(image, np.float64))
    pillows = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), np.int64)
    assert np.abs(found - exact).max() <= 1.1
    assert np.abs(found - pillows).max() <= 1
    assert np.square(found - exact).mean() <= 1.02 * np.square(pillows - exact).mean()


def test_what_cannot_be_seen_does_not_shine_through(tmp_path: Path) -> None:
    """Half of the image is red and transparent: resized, no red appears at its edge."""
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, :10], pixels[:, 10:] = (255, 0, 0, 0), (0, 0, 255, 255)
    found = decoded(tmp_path, written(Image.fromarray(pixels), "PNG"), (7, 7, 4))
    assert (found[..., 0][found[..., 3] > 0] == 0).all()
    assert (found[:, -1] == (0, 0, 255, 255)).all()


@pytest.mark.parametrize(("mode", "form"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")])
def test_more_than_8_bits_are_refused_and_not_clipped(mode: str, form: str, tmp_path: Path) -> None:
    """A ramp from 0 to 40,000 would be white from 255 on; a float one in [0, 1] would be black."""
    ramp = np.linspace(0, 40_000, 144).reshape(12, 12)
    values = {"I;16": ramp.astype(np.uint16), "I": ramp.astype(np.int32), "F": (ramp / 40_000).astype(np.float32)}
    path = tmp_path / f"deep.{form.lower()}"
    Image.fromarray(values[mode]).save(path, form)
    images = EncodedImages.from_files([path], ["deep"], [0])
    with pytest.raises(UsageError, match="deep has more than 8 bits per channel .*; convert the images to 8 bits"):
        images.decode(0, (12, 12, 1))
