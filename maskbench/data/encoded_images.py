"""Encoded images on disk, each of which can be read and decoded at any time."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from simplejpeg import decode_jpeg
from torch import Tensor
from torch.nn.functional import interpolate

from maskbench.data.image_warnings import current_image
from maskbench.data.pixel_modes import convert_channels, deep_mode, is_turned, read_orientation, turn_upright
from maskbench.data.string_table import StringTable
from maskbench.errors import UsageError
from maskbench.runtime.regular_files import MIB, open_regular

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")  # of Pillow's, whatever a file is called; others may
# start programs (Ghostscript for PostScript) or are seldom tested
MAX_ENCODED = 256 * MIB  # bytes of one encoded image
REDUCING_GAP = 2.0  # as in Pillow's thumbnails; changes photographs by less than one level of 255 on average


@dataclass(frozen=True)
class EncodedImages:
    """The encoded images of one split: each is a piece of a file. The cache stores these fields by name.

    Attributes:
        labels: (N,) int64, the class of each image.
        names: N names, for messages.
        files: Paths, each once.
        file: (N,) int64, index into `files`.
        start: (N,) int64, first byte in the file.
        size: (N,) int64, in bytes; -1 reaches to the end of the file.
    """

    labels: Tensor
    names: StringTable
    files: StringTable
    file: Tensor
    start: Tensor
    size: Tensor

    @classmethod
    def from_files(cls, paths: Sequence[Path], names: Iterable[str], labels: Sequence[int]) -> "EncodedImages":
        """One image in each file."""
        index = torch.arange(len(paths))
        return cls(
            torch.tensor(labels, dtype=torch.int64),
            StringTable.from_strings(names),
            StringTable.from_strings(map(str, paths)),
            index,
            torch.zeros_like(index),
            torch.full_like(index, -1),
        )

    def without_labels(self) -> "EncodedImages":
        """The same images; every label is 0."""
        return replace(self, labels=torch.zeros_like(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def read_bytes(self, index: int) -> bytes:
        """Read the encoded image. UsageError that names it where its file cannot be read."""
        file, start, size = (column.numpy()[index].item() for column in (self.file, self.start, self.size))
        if size > MAX_ENCODED:
            raise UsageError(f"{self.names[index]} has {size / MIB:,.0f} MiB, too many for one image; convert it")
        try:
            with open_regular(self.files[file], MAX_ENCODED if size < 0 else None) as opened:
                opened.seek(start)
                return opened.read(size)
        except OSError as error:
            raise UsageError(f"cannot read {self.names[index]}: {error.strerror or error}; bring it back") from None

    def open_image(self, encoded: bytes, index: int) -> Image.Image:
        """Read the header of the encoded image `index`, as one of FORMATS.

        UsageError that names it where it is no image, or has more than 8 bits a channel.
        """
        current_image.names, current_image.index = self.names, index
        with self.name_errors(index):
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
            mode = deep_mode(image)
        if mode is not None:
            raise UsageError(
                f"{self.names[index]} has more than 8 bits per channel (Pillow's mode {mode}), which are not "
                f"read yet; convert the images to 8 bits, with the range that matters"
            )
        return image

    @contextmanager
    def name_errors(self, index: int) -> Iterator[None]:
        """Whatever Pillow raises within, which may be any exception for a damaged file, is a UsageError that names the
        image."""
        try:
            yield
        except (UsageError, MemoryError):
            raise
        except Exception as error:
            raise self._decode_error(index, error) from None

    def decode(self, index: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Decode an image, turn it upright as its EXIF says, and resize it to the canvas.

        Transparent images lie on white, unless the canvas has 4 channels. JPEGs much larger than the canvas are decoded
        at a half, a quarter or an eighth of their size.

        Args:
            index: Number of the image.
            shape: Rows, columns and channels of the canvas.

        Returns:
            (rows, cols, channels) uint8.

        Raises:
            UsageError: The image is damaged. The message names it.
        """
        encoded, (rows, cols, channels) = self.read_bytes(index), shape
        with self.open_image(encoded, index) as image, self.name_errors(index):
            orientation = read_orientation(image, encoded)
            width, height = (rows, cols) if is_turned(orientation) else (cols, rows)
            image.draft(None, (round(REDUCING_GAP * width), round(REDUCING_GAP * height)))
            pixels = _decode_rgb_jpeg(encoded, image) if channels == 3 else None
            if pixels is None:
                pixels = _decode_with_pillow(image, orientation, shape)
            elif orientation != 1:
                pixels = np.array(turn_upright(Image.fromarray(pixels), orientation))
        return pixels if pixels.shape == shape else _resize(pixels, rows, cols)

    def _decode_error(self, index: int, error: Exception) -> UsageError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # Pillow's words name an object in memory
            reason = f"it is no image of a format that is read ({', '.join(FORMATS)}), or its beginning is damaged"
        return UsageError(f"cannot decode {self.names[index]}: {reason}; repair or remove it")


def _decode_rgb_jpeg(encoded: bytes, image: Image.Image) -> np.ndarray | None:
    """(H, W, 3) uint8, exactly what Pillow makes of a JPEG in colour, in less time. None for anything else and for
    anything unusual, which is left to Pillow."""
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    try:
        pixels: np.ndarray = decode_jpeg(encoded, "RGB", min_height=image.height, min_width=image.width)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (image.height, image.width) else None


def _decode_with_pillow(image: Image.Image, orientation: int, shape: tuple[int, int, int]) -> np.ndarray:
    """(H, W, channels) uint8, upright."""
    rows, cols, channels = shape
    image.load()
    converted = convert_channels(image, channels)
    if image.format != "TIFF":  # which Pillow turns in `load`
        converted = turn_upright(converted, orientation)
    if converted.mode == "RGBA":  # Pillow weighs colours by alpha; `_resize` would let invisible pixels shine through
        converted = converted.resize((cols, rows), Image.Resampling.BILINEAR)
    return np.array(converted).reshape(converted.height, converted.width, channels)


def _resize(pixels: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """(H, W, channels) uint8 -> (rows, cols, channels): bilinear and antialiased.

    It takes a third of Pillow's time. Some values differ from Pillow's by one level of 255; both are equally close to
    exact arithmetic.
    """
    images = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # memory stays channels-last
    resized = interpolate(images, (rows, cols), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()[0]


class EncodedImageWriter:
    """Writes encoded images one after the other into a new file, for sources that give no access to a single image.

    Attributes:
        path: The file.
        position: Bytes written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        path.write_bytes(b"")

    def write_split(self, images: Iterator[tuple[str, int, bytes]]) -> EncodedImages:
        """Write the images of a split, each given as name, label and bytes.

        Returns:
            The same images, to be read from this file.

        Raises:
            OSError: The disk is full or fails; its `filename` is this file.
        """
        names, labels, sizes = [], [], []
        first = self.position
        with self.path.open("ab") as file:
            for name, label, encoded in images:
                names.append(name)
                labels.append(label)
                sizes.append(len(encoded))
                self._append(file, encoded)
        size = torch.tensor(sizes, dtype=torch.int64)
        start = first + size.cumsum(0) - size
        return EncodedImages(
            torch.tensor(labels, dtype=torch.int64),
            StringTable.from_strings(names),
            StringTable.from_strings([str(self.path)]),
            torch.zeros_like(start),
            start,
            size,
        )

    def _append(self, file: BinaryIO, encoded: bytes) -> None:
        try:
            self.position += file.write(encoded)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
