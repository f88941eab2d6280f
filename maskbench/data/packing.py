"""From encoded images of any size to one uint8 canvas per data set: in memory, or streamed where they are too many."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from maskbench.data.cache import Packed
from maskbench.data.encoded_images import MODES, Encoded
from maskbench.data.splits import Images, Split
from maskbench.data.streaming import Streamed
from maskbench.errors import UsageError
from maskbench.runtime.cpu import each

DETAIL = 2  # the canvas has at most this many times the rows and columns that the model sees
GIB = 2**30


def pack(
    splits: dict[str, Encoded], classes: tuple[str, ...], size: tuple[int, int], channels: int, memory_gib: float
) -> Packed:
    """Every image on a canvas of the same size: decoded now, or, where that takes more than `memory_gib`, later.

    Images of one size no larger than DETAIL times the model's are taken as they are. Others are resized, if need be
    with distortion, which `Images.stretch` records and the crops undo: no part of an image is cut away. Either way
    every image is read twice and decoded once, so that what is broken is found before anything is trained.
    """
    if channels not in MODES:
        raise UsageError(f"image files have {', '.join(map(str, MODES))} channels, not {channels}; change --in-chans")
    surveyed = {name: _survey(split) for name, split in sorted(splits.items())}
    largest = np.concatenate([sizes for sizes, _ in surveyed.values()]).max(0)
    shape = (min(int(largest[0]), DETAIL * size[0]), min(int(largest[1]), DETAIL * size[1]), channels)
    streamed = sum(map(len, splits.values())) * np.prod(shape) > memory_gib * GIB
    made: dict[str, Split] = {}
    fingerprint = hashlib.sha256(repr(classes).encode())
    for name, (sizes, digest) in surveyed.items():
        split, stretch = splits[name], torch.from_numpy(sizes[:, 1] / sizes[:, 0] / (shape[1] / shape[0])).float()
        made[name] = _streamed(split, shape, stretch) if streamed else _decoded(split, shape, stretch)
        fingerprint.update(name.encode() + digest + repr(split.labels.tolist()).encode())
    return Packed(made, classes, fingerprint.hexdigest()[:16])


def _survey(split: Encoded) -> tuple[np.ndarray, bytes]:
    """(N, 2) rows and columns, read from the headers; a digest of the encoded bytes in order."""

    def look(number: int) -> tuple[int, int, bytes]:
        encoded = split.read(number)
        with split.open(encoded, number) as image:
            return image.height, image.width, hashlib.sha256(encoded).digest()

    sizes, digest = np.empty((len(split), 2)), hashlib.sha256()
    for number, (rows, cols, of_image) in enumerate(each(look, len(split))):
        sizes[number] = rows, cols
        digest.update(of_image)
    return sizes, digest.digest()


def _decoded(split: Encoded, shape: tuple[int, int, int], stretch: Tensor) -> Images:
    rows, cols, channels = shape
    pixels = np.empty((len(split), channels, rows, cols), np.uint8)

    def decode(number: int) -> None:
        pixels[number] = split.pixels(number, shape).transpose(2, 0, 1)

    for _ in each(decode, len(split)):
        pass
    return Images(torch.from_numpy(pixels), split.labels, stretch)


def _streamed(split: Encoded, shape: tuple[int, int, int], stretch: Tensor) -> Streamed:
    whole = Streamed(split, torch.arange(len(split)), split.labels.clone(), stretch, torch.tensor(shape))
    return whole.with_levels()
