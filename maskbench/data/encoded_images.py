"""Images as they lie on disk, any of which can be read at any time."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from simplejpeg import decode_jpeg
from torch import Tensor
from torch.nn.functional import interpolate

from maskbench.data.string_table import Texts
from maskbench.errors import UsageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by number of channels
DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for them
REDUCING_GAP = 2.0  # as in Pillow's thumbnails: it moves photographs by less than one level of 255 on average


@dataclass(frozen=True)
class Encoded:
    """One split: every image is a piece of a file.

    labels: (N,) int64. names: (N), for messages. files: paths, each once; file: (N,) int64, which of them it is in.
    start, size: (N,) int64, in bytes; a size of -1 reaches to the file's end.
    """

    labels: Tensor
    names: Texts
    files: Texts
    file: Tensor
    start: Tensor
    size: Tensor

    @classmethod
    def whole_files(cls, paths: Sequence[Path], names: Iterable[str], labels: Sequence[int]) -> "Encoded":
        """A file an image."""
        number = torch.arange(len(paths))
        start, size = torch.zeros_like(number), torch.full_like(number, -1)
        return cls(
            torch.tensor(labels, dtype=torch.int64), Texts.of(names), Texts.of(map(str, paths)), number, start, size
        )

    def without_labels(self) -> "Encoded":
        """The same images; every label is 0."""
        return replace(self, labels=torch.zeros_like(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int) -> bytes:
        """The encoded image. UsageError that names it where the file cannot be read."""
        which, start, size = (column.numpy()[number].item() for column in (self.file, self.start, self.size))
        try:
            with open(self.files[which], "rb") as file:  # noqa: PTH123  a tenth of a small image's time
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise UsageError(f"cannot read {self.names[number]}: {error.strerror or error}; bring it back") from None

    def open(self, encoded: bytes, number: int) -> Image.Image:
        """Decode lazily; UsageError that names the image where it is none."""
        try:
            return Image.open(io.BytesIO(encoded))
        except DAMAGED as error:
            raise self.broken(number, error) from None

    def pixels(self, number: int, shape: tuple[int, int, int]) -> np.ndarray:
        """The image on a canvas of `shape` (rows, cols, channels), uint8. UsageError that names it where it is damaged.

        JPEGs much larger than the canvas are decoded at a half, a quarter or an eighth of their size.
        """
        encoded, (rows, cols, channels) = self.read(number), shape
        with self.open(encoded, number) as image:
            try:
                image.draft(None, (round(REDUCING_GAP * cols), round(REDUCING_GAP * rows)))
                pixels = _coloured_jpeg(encoded, image) if channels == 3 else None
                if pixels is None:
                    pixels = _loaded(image, shape)
            except DAMAGED as error:
                raise self.broken(number, error) from None
        return pixels if pixels.shape == shape else _resized(pixels, rows, cols)

    def broken(self, number: int, error: Exception) -> UsageError:
        """The error for an image that cannot be decoded."""
        return UsageError(f"cannot decode {self.names[number]}: {error}; repair or remove it")


def _coloured_jpeg(encoded: bytes, image: Image.Image) -> np.ndarray | None:
    """(H, W, 3) uint8, what Pillow would make of a JPEG in colour, to the bit and in less time; None where it is
    anything else, or unusual in any way: then Pillow is to judge."""
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    try:
        pixels: np.ndarray = decode_jpeg(encoded, "RGB", min_height=image.height, min_width=image.width)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (image.height, image.width) else None


def _loaded(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """(H, W, channels) uint8, by Pillow."""
    rows, cols, channels = shape
    image.load()
    converted = image if image.mode == MODES[channels] else image.convert(MODES[channels])  # which copies
    if converted.mode == "RGBA":  # of which what cannot be seen must not shine through, as it does in `_resized`
        converted = converted.resize((cols, rows), Image.Resampling.BILINEAR)
    return np.array(converted).reshape(converted.height, converted.width, channels)


def _resized(pixels: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """(rows, cols, channels) of (H, W, channels) uint8: bilinear and antialiased. Some values are one level of 255 off
    Pillow's, and as close to what exact numbers would give; it takes a third of the time."""
    images = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # channels last in memory, as they stay
    resized = interpolate(images, (rows, cols), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()[0]


class Flat:
    """A new file into which images are written one after the other, for sources in which none can be reached alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        path.write_bytes(b"")

    def split(self, images: Iterator[tuple[str, int, bytes]]) -> Encoded:
        """The images, each with its name and label, written and to be read from here. OSError that names the file where
        the disk refuses."""
        names, labels, sizes = [], [], []
        first = self.position
        with self.path.open("ab") as file:
            for name, label, encoded in images:
                names.append(name)
                labels.append(label)
                sizes.append(len(encoded))
                self.write(file, encoded)
        size = torch.tensor(sizes, dtype=torch.int64)
        start = first + size.cumsum(0) - size
        numbers, files = torch.tensor(labels, dtype=torch.int64), Texts.of([str(self.path)])
        return Encoded(numbers, Texts.of(names), files, torch.zeros_like(start), start, size)

    def write(self, file: BinaryIO, encoded: bytes) -> None:
        """See `split`."""
        try:
            self.position += file.write(encoded)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def labelled(root: Path, hidden: Mapping[str, Tensor]) -> list[str]:
    """The splits that have labels. hidden: (N,) bool by split, True where a label is negative, as it is for all images
    of a test set whose labels are withheld. UsageError that names the split where it is so for some."""
    for split, of_split in hidden.items():
        if of_split.any() and not of_split.all():
            raise UsageError(
                f"{int(of_split.sum())} of the {len(of_split)} images of the split {split} in {root} have no label, or "
                f"a negative one; remove them, or number the classes from 0"
            )
    return [split for split, of_split in hidden.items() if not of_split.any()]
