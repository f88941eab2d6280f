"""Data sets by name: `shapes`, torch/..., hfds/..., wds/..., or a folder of Parquet files or of class folders."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maskbench.data import folders, shapes, torchvision, webdataset
from maskbench.data.cache import Packed, cached
from maskbench.data.encoded_images import Encoded
from maskbench.data.packing import pack
from maskbench.data.splits import Split, Splits, assemble, stratified_order
from maskbench.data.streaming import Streamed
from maskbench.errors import UsageError

HUB = "hfds/"


@functools.lru_cache(maxsize=2)  # runs of one process share the memory; one to train on, one to probe on
def load(
    dataset: str,
    size: tuple[int, int],
    channels: int,
    limit: int | None = None,
    data_dir: str | None = None,
    memory_gib: float = math.inf,
) -> Splits:
    """The data set for a model that sees `channels` x `size` (rows, cols), packed and cached, or, where it would take
    more than `memory_gib`, streamed; `shapes`, which is drawn, never is.

    Images without classes are all train; test is empty. limit: keep this many training images.
    data_dir: where torch/... and hfds/... data sets were downloaded to, and what wds/... is in. UsageError for an
    unknown name, a missing path or broken files.
    """
    if dataset == "shapes":
        packed, name, key = _shapes(size, channels), "shapes", {}
    else:
        found = _source(dataset, data_dir)
        key = {**found.key, "size": size, "channels": channels, "memory_gib": memory_gib}
        packed = cached(key, lambda flat: pack(*found.read(flat), size, channels, memory_gib))
        name = found.name
    if limit is not None and limit < len(packed.classes):
        raise UsageError(f"--limit {limit} leaves some of the {len(packed.classes)} classes of {name} without images")
    train = _limited(packed, key, limit)
    return assemble(
        name,
        train,
        packed.splits.get("test", train.part(torch.arange(0))),
        classes=packed.classes,
        fingerprint=packed.fingerprint,
        validation=packed.splits.get("validation"),
    )


def _limited(packed: Packed, key: dict[str, Any], limit: int | None) -> Split:
    """The first `limit` training images of the stratified order; streamed ones are decoded once, for their levels."""
    train = packed.splits["train"]
    if limit is None or limit >= len(train):
        return train
    part = train.part(stratified_order(train.labels)[:limit].sort().values)
    if not isinstance(part, Streamed):
        return part
    known = cached({**key, "limit": limit}, lambda _: replace(packed, splits={"train": part.with_levels()}))
    return known.splits["train"]


@dataclass(frozen=True)
class Source:
    """Encoded images somewhere.

    key: JSON-able, another one whenever they are others. read: splits by name and the names of the classes; it may
    write to the file that it is given.
    """

    name: str
    key: dict[str, Any]
    read: Callable[[Path], tuple[dict[str, Encoded], tuple[str, ...]]]


def _source(dataset: str, data_dir: str | None) -> Source:
    if dataset.startswith(torchvision.PREFIX):
        key = {"dataset": dataset, "root": str(torchvision.folder(data_dir).resolve())}
        name = dataset.removeprefix(torchvision.PREFIX)
        return Source(name, key, lambda flat: torchvision.read(dataset, data_dir, flat))
    if dataset.startswith(webdataset.PREFIX):
        return _shards(Path(data_dir or "", dataset.removeprefix(webdataset.PREFIX)))
    if dataset.startswith(HUB):
        return _hub(dataset.removeprefix(HUB), data_dir)
    if "/" in dataset or Path(dataset).is_dir():
        return _folder(Path(dataset))
    raise UsageError(
        f"unknown data set {dataset!r}. Known: shapes, torch/cifar10 and the like, hfds/NAME, wds/FOLDER, or a path, "
        f"e.g. ./{dataset}"
    )


def _folder(root: Path) -> Source:
    if not root.is_dir():
        raise UsageError(f"no folder {root}: give a path that holds Parquet files or class folders of images")
    found = folders.listing(root)
    if not found:
        raise UsageError(f"no Parquet files or images in {root}")
    key = {"root": str(root.resolve()), "files": found}
    return Source(root.resolve().name, key, lambda flat: folders.read(root, flat))


def _shards(root: Path) -> Source:
    if not root.is_dir():
        raise UsageError(f"no folder {root}: give wds/FOLDER, a folder of tar shards on this machine")
    found = folders.listing(root, {".tar", ".txt"})
    key = {"shards": str(root.resolve()), "files": found}
    name = root.resolve().name
    return Source(name, key, lambda _: folders.complete(root, *webdataset.read(root), webdataset.EXPECTED))


def _hub(name: str, data_dir: str | None) -> Source:
    from maskbench.data import huggingface  # not in processes that only decode, to which pyarrow is 50 MiB of nothing

    parts = huggingface.opened(name, data_dir)
    key = {"hub": name, "files": huggingface.listing(parts)}
    place = Path(HUB + name)
    return Source(
        Path(name).name, key, lambda _: folders.complete(place, *huggingface.read(name, parts), huggingface.EXPECTED)
    )


def _shapes(size: tuple[int, int], channels: int) -> Packed:
    fingerprint = f"shapes-{shapes.VERSION}-{channels}x{size[0]}x{size[1]}"
    sizes = {"train": shapes.TRAIN, "test": shapes.TEST}

    def generate(_: Path) -> Packed:
        splits = {name: shapes.generate(name, count, *size, channels) for name, count in sizes.items()}
        return Packed(splits, shapes.CLASSES, fingerprint)

    return cached({"shapes": shapes.VERSION, "size": size, "channels": channels, **sizes}, generate)
