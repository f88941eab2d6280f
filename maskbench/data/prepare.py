"""From encoded images of any size to one uint8 canvas for the whole data set: decoded into memory, or streamed."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_source import EncodedDataset
from maskbench.data.image_warnings import name_warned_images
from maskbench.data.pixel_modes import MODES, has_alpha, has_more_frames, read_orientation, upright_size
from maskbench.data.splits import Images, Split
from maskbench.data.streaming import StreamedImages
from maskbench.errors import UsageError
from maskbench.runtime.cpu import map_in_threads

MAX_CANVAS_SCALE = 2  # the canvas has at most this many times the rows and columns that the model sees
GIB = 2**30


@dataclass(frozen=True)
class PreparedDataset:
    """A data set whose images share one canvas, as the cache keeps it.

    Attributes:
        splits: Images by split: "train", perhaps "test" and "validation".
        classes: Class names; empty where images have no labels.
        fingerprint: Hash of the encoded images, their labels and the class names. It depends on neither the place of
            the files nor the size of the canvas.
    """

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    fingerprint: str


def prepare_images(dataset: EncodedDataset, size: tuple[int, int], channels: int, memory_gib: float) -> PreparedDataset:
    """Bring every image to a canvas of one size: now, or, where that takes more than `memory_gib`, when it is needed.

    Images of one size are taken as they are if that is no larger than MAX_CANVAS_SCALE times the model's. Others are
    resized, with distortion where the aspects differ; `stretch` records it and crops undo it, so no part of an image is
    cut away. Either way every image is read twice and decoded once, so that a broken one is found before training.

    Args:
        dataset: The encoded images.
        size: Rows and columns of the model's images, in pixels.
        channels: 1, 3 or 4.
        memory_gib: The most that decoded images may take in memory, in GiB.

    Raises:
        UsageError: An image is broken or has more than 8 bits per channel, or files do not have so many channels.
    """
    with name_warned_images():
        return _prepare_images(dataset, size, channels, memory_gib)


def _prepare_images(
    dataset: EncodedDataset, size: tuple[int, int], channels: int, memory_gib: float
) -> PreparedDataset:
    if channels not in MODES:
        raise UsageError(f"image files have {', '.join(map(str, MODES))} channels, not {channels}; change --in-chans")
    for name, split in dataset.splits.items():
        highest = int(split.labels.max()) if len(split) else 0
        if dataset.classes and highest >= len(dataset.classes):
            raise UsageError(
                f"the split {name} has a label {highest}, and there are {len(dataset.classes)} classes, numbered from "
                f"0; correct it"
            )
    surveys = {name: _survey(split) for name, split in sorted(dataset.splits.items())}
    largest = np.concatenate([sizes for sizes, _ in surveys.values()]).max(0)
    rows, cols = (min(int(side), MAX_CANVAS_SCALE * seen) for side, seen in zip(largest, size, strict=True))
    shape = (rows, cols, channels)
    is_streamed = sum(map(len, dataset.splits.values())) * np.prod(shape) > memory_gib * GIB
    splits: dict[str, Split] = {}
    fingerprint = hashlib.sha256(repr(dataset.classes).encode())
    for name, (sizes, digest) in surveys.items():
        images, stretch = dataset.splits[name], torch.from_numpy(sizes[:, 1] / sizes[:, 0] / (cols / rows)).float()
        splits[name] = _stream(images, shape, stretch) if is_streamed else _decode(images, shape, stretch)
        fingerprint.update(name.encode() + digest + repr(images.labels.tolist()).encode())
    return PreparedDataset(splits, dataset.classes, fingerprint.hexdigest()[:16])


def _survey(images: EncodedImages) -> tuple[np.ndarray, bytes]:
    """(N, 2) rows and columns, upright, read from the headers; a digest of the encoded bytes in order."""

    def read_header(index: int) -> tuple[int, int, bytes]:
        encoded = images.read_bytes(index)
        digest = hashlib.sha256(encoded)
        with images.open_image(encoded, index) as image, images.name_errors(index):
            orientation = read_orientation(image, encoded)
            if orientation != 1 or has_alpha(image):  # pixels that are not what the file's values say
                digest.update(f"upright from {orientation}, on white".encode())
            rows, cols = upright_size(image, orientation)
            if has_more_frames(image):
                warnings.warn("only the first of its frames or pages is read", stacklevel=2)
        return rows, cols, digest.digest()

    sizes, digest = np.empty((len(images), 2)), hashlib.sha256()
    for index, (rows, cols, image_digest) in enumerate(map_in_threads(read_header, len(images))):
        sizes[index] = rows, cols
        digest.update(image_digest)
    return sizes, digest.digest()


def _decode(images: EncodedImages, shape: tuple[int, int, int], stretch: Tensor) -> Images:
    rows, cols, channels = shape
    pixels = np.empty((len(images), channels, rows, cols), np.uint8)

    def decode_image(index: int) -> None:
        pixels[index] = images.decode(index, shape).transpose(2, 0, 1)

    for _ in map_in_threads(decode_image, len(images)):
        pass
    return Images(torch.from_numpy(pixels), images.labels, stretch)


def _stream(images: EncodedImages, shape: tuple[int, int, int], stretch: Tensor) -> StreamedImages:
    indices, labels = torch.arange(len(images)), images.labels.clone()
    return StreamedImages(images, indices, labels, stretch, torch.tensor(shape)).with_level_counts()
