"""Data sets by name: `shapes`, torch/..., or a path to a folder of Parquet files or of class folders of images."""

import functools
from pathlib import Path

import torch

from maskbench.data import downloads, files, shapes
from maskbench.data.cache import Packed, cached
from maskbench.data.pack import pack
from maskbench.data.splits import Splits, assemble
from maskbench.errors import UsageError


@functools.lru_cache(maxsize=2)  # runs of one process share the memory; one to train on, one to probe on
def load(
    dataset: str, size: tuple[int, int], channels: int, limit: int | None = None, data_dir: str | None = None
) -> Splits:
    """The data set for a model that sees `channels` x `size` (rows, cols), packed and cached.

    Images without classes are all train; test is empty. limit: keep this many training images.
    data_dir: where torch/... data sets were downloaded to. UsageError for an unknown name, a missing path or broken
    files.
    """
    if dataset == "shapes":
        packed, name = _shapes(size, channels), "shapes"
    elif dataset.startswith(downloads.PREFIX):
        packed, name = _downloaded(dataset, data_dir, size, channels), dataset.removeprefix(downloads.PREFIX)
    elif "/" in dataset or Path(dataset).is_dir():
        packed, name = _folder(Path(dataset), size, channels), Path(dataset).resolve().name
    else:
        raise UsageError(
            f"unknown data set {dataset!r}. Known: shapes, torch/cifar10 and the like, or a path, e.g. ./{dataset}"
        )
    if limit is not None and limit < len(packed.classes):
        raise UsageError(f"--limit {limit} leaves some of the {len(packed.classes)} classes of {name} without images")
    train = packed.splits["train"]
    return assemble(
        name,
        train,
        packed.splits.get("test", train.take(torch.arange(0))),
        classes=packed.classes,
        fingerprint=packed.fingerprint,
        validation=packed.splits.get("validation"),
        limit=limit,
    )


def _shapes(size: tuple[int, int], channels: int) -> Packed:
    fingerprint = f"shapes-{shapes.VERSION}-{channels}x{size[0]}x{size[1]}"
    sizes = {"train": shapes.TRAIN, "test": shapes.TEST}

    def generate() -> Packed:
        splits = {name: shapes.generate(name, count, *size, channels) for name, count in sizes.items()}
        return Packed(splits, shapes.CLASSES, fingerprint)

    return cached({"shapes": shapes.VERSION, "size": size, "channels": channels, **sizes}, generate)


def _downloaded(dataset: str, data_dir: str | None, size: tuple[int, int], channels: int) -> Packed:
    key = {"dataset": dataset, "root": str(downloads.folder(data_dir).resolve()), "size": size, "channels": channels}
    return cached(key, lambda: pack(*downloads.read(dataset, data_dir), size, channels))


def _folder(root: Path, size: tuple[int, int], channels: int) -> Packed:
    if not root.is_dir():
        raise UsageError(f"no folder {root}: give a path that holds Parquet files or class folders of images")
    found = files.listing(root)
    if not found:
        raise UsageError(f"no Parquet files or images in {root}")
    key = {"root": str(root.resolve()), "files": found, "size": size, "channels": channels}
    return cached(key, lambda: pack(*files.read(root), size, channels))
