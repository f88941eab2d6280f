"""Decoding: encoded images of any size to one uint8 canvas per data set."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from maskbench.data.cache import Packed
from maskbench.data.files import Encoded
from maskbench.data.splits import Images
from maskbench.errors import UsageError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
DETAIL = 2  # the canvas has at most this many times the rows and columns that the model sees


def pack(splits: dict[str, Encoded], classes: tuple[str, ...], size: tuple[int, int], channels: int) -> Packed:
    """Every image decoded onto a canvas of the same size.

    Images of one size no larger than DETAIL times the model's are stored as they are. Others are resized, if need be
    with distortion, which `Images.stretch` records and the crops undo: no part of an image is cut away.
    """
    if channels not in MODES:
        raise UsageError(f"image files have {', '.join(map(str, MODES))} channels, not {channels}; change --in-chans")
    sizes = {name: _sizes(split) for name, split in splits.items()}
    largest = np.concatenate(list(sizes.values())).max(0)
    canvas = (min(int(largest[0]), DETAIL * size[0]), min(int(largest[1]), DETAIL * size[1]))
    packed, digests = {}, hashlib.sha256(repr(classes).encode())
    for name, split in sorted(splits.items()):
        pixels, digest = _decode(split, canvas, channels)
        stretch = torch.from_numpy(sizes[name][:, 1] / sizes[name][:, 0] / (canvas[1] / canvas[0])).float()
        packed[name] = Images(pixels, torch.tensor(split.labels), stretch)
        digests.update(name.encode() + digest + repr(split.labels).encode())
    return Packed(packed, classes, digests.hexdigest()[:16])


def _each(function, numbers: Iterable[int]):  # type: ignore[no-untyped-def]
    """Pillow and hashlib release the interpreter lock, so threads suffice."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, numbers, chunksize=64)


def _sizes(split: Encoded) -> np.ndarray:
    """(N, 2) rows and columns, read from the headers."""

    def size(number: int) -> tuple[int, int]:
        with split.open(split.read(number), number) as image:
            return image.height, image.width

    return np.array(list(_each(size, range(len(split)))))


def _decode(split: Encoded, canvas: tuple[int, int], channels: int) -> tuple[torch.Tensor, bytes]:
    """(N, C, *canvas) uint8, and a digest of the encoded bytes in order."""
    pixels = np.empty((len(split), channels, *canvas), np.uint8)

    def decode(number: int) -> bytes:
        encoded = split.read(number)
        try:
            with split.open(encoded, number) as image:
                converted = image.convert(MODES[channels])
        except OSError as error:
            raise split.broken(number, error) from None
        if (converted.height, converted.width) != canvas:
            converted = converted.resize(canvas[::-1], Image.Resampling.BILINEAR)
        pixels[number] = np.asarray(converted).reshape(*canvas, channels).transpose(2, 0, 1)
        return hashlib.sha256(encoded).digest()

    digest = hashlib.sha256(b"".join(_each(decode, range(len(split))))).digest()
    return torch.from_numpy(pixels), digest
