"""From the name of a data set to its splits: find the images, prepare or recall them, apply the limit."""

import functools
import math
import multiprocessing
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maskbench.data import folders, label_table, shapes, torchvision, webdataset
from maskbench.data.cache import read_or_create
from maskbench.data.classes import warn_of_similar_classes
from maskbench.data.damaged_images import name_all_damaged
from maskbench.data.image_source import ImageSource
from maskbench.data.image_warnings import ignore_repeated_warnings
from maskbench.data.label_table import LabelTable
from maskbench.data.prepare import PreparedDataset, prepare_images
from maskbench.data.splits import Split, Splits, build_splits, stratified_order
from maskbench.data.streaming import StreamedImages
from maskbench.errors import UsageError

Labels = str | LabelTable | None  # a column of labels, or a table
HUGGING_FACE_PREFIX = "hfds/"  # not in huggingface.py, which is imported only where it is needed


@functools.lru_cache(maxsize=2)  # runs of one process share the memory; one to train on, one to probe on
def load_dataset(
    dataset: str,
    size: tuple[int, int],
    channels: int,
    limit: int | None = None,
    data_dir: str | None = None,
    memory_gib: float = math.inf,
    labels: Labels = None,
    order_seed: int = 0,
) -> Splits:
    """Load a data set for a model that takes images of `channels` x `size`.

    Images without classes are all training images; the test split is then empty.

    Args:
        dataset: `shapes`, torch/NAME, hfds/NAME, wds/FOLDER, or the path of a folder that holds Parquet files or class
            folders.
        size: Rows and columns of the model's images, in pixels.
        channels: 1, 3 or 4; `shapes` has as many as are wanted.
        limit: Keep the first so many training images of a stratified order, the same for all runs. Default: all.
        data_dir: Where torch/... and hfds/... data sets were downloaded to, and what the path in wds/... is relative
            to. Default: the cache folder, the library's own cache, the working directory.
        memory_gib: Stream the images from disk if they take more than this when decoded. Generated `shapes` are never
            streamed.
        labels: The column of labels in Parquet files and hfds/... , or the table of labels of image files in a folder.
            Default: label, labels or fine_label; class folders.
        order_seed: Of the stratified order by which images are kept and held out.

    Raises:
        UsageError: The name is unknown, a path is missing, files are broken, or `limit` leaves a class without images.
    """
    if dataset == "shapes":
        _refuse_labels(dataset, labels)
        plan, left_out = _plan_shapes(size, channels), ""
    else:
        source = find_source(dataset, data_dir, labels)
        plan = _plan_images(source, size, channels, memory_gib)
        left_out = source.left_out
    prepared = read_or_create(plan.cache_key, plan.prepare)
    if multiprocessing.parent_process() is None:  # which has said it where there is one
        if left_out:
            warnings.warn(f"left out in {dataset}: {left_out}", stacklevel=2)
        warn_of_similar_classes(plan.name, prepared.classes)
    if limit is not None and limit < len(prepared.classes):
        classes = len(prepared.classes)
        raise UsageError(f"--limit {limit} leaves some of the {classes} classes of {plan.name} without images")
    train = _limit_training_images(prepared, plan.cache_key, limit, order_seed)
    return build_splits(
        plan.name,
        train,
        prepared.splits.get("test", train.subset(torch.arange(0))),
        classes=prepared.classes,
        fingerprint=prepared.fingerprint,
        validation=prepared.splits.get("validation"),
        order_seed=order_seed,
    )


def find_source(dataset: str, data_dir: str | None, labels: Labels = None) -> ImageSource:
    """Find out from its name which kind of source the data set is, and where its images are. See `load_dataset`."""
    if dataset.startswith((torchvision.PREFIX, webdataset.PREFIX)):
        _refuse_labels(dataset, labels)
    if dataset.startswith(torchvision.PREFIX):
        return torchvision.find_source(dataset, data_dir)
    if dataset.startswith(webdataset.PREFIX):
        return webdataset.find_source(Path(data_dir or "", dataset.removeprefix(webdataset.PREFIX)))
    if dataset.startswith(HUGGING_FACE_PREFIX):
        from maskbench.data import huggingface  # imports pyarrow: 50 MiB that processes which only decode do without

        column = None if isinstance(labels, LabelTable) else labels
        if column is not labels:
            _refuse_labels(dataset, labels)
        return huggingface.find_source(dataset.removeprefix(HUGGING_FACE_PREFIX), data_dir, column)
    if "/" in dataset or Path(dataset).exists():
        if isinstance(labels, LabelTable):
            return label_table.find_source(Path(dataset), labels)
        return folders.find_source(Path(dataset), labels)
    raise UsageError(
        f"unknown data set {dataset!r}. Known: shapes, torch/cifar10 and the like, hfds/NAME, wds/FOLDER, or a path, "
        f"e.g. ./{dataset}"
    )


def _refuse_labels(dataset: str, labels: Labels) -> None:
    if isinstance(labels, LabelTable):
        raise UsageError(f"{dataset} has labels of its own; --labels is for image files in a folder")
    if labels is not None:
        raise UsageError(f"{dataset} has no columns; --label-column is for Parquet files and hfds/NAME")


def explain_labels(dataset: str, data_dir: str | None) -> str:
    """What to do so that the images of a data set that was loaded without labels get some."""
    return find_source(dataset, data_dir).explain_labels()


def download_dataset(dataset: str, data_dir: str | None) -> None:
    """Download a torch/... or hfds/... data set that is not there yet; others are left alone.

    Raises:
        UsageError: The name is unknown, or the download fails.
    """
    if dataset.startswith(torchvision.PREFIX):
        torchvision.download(dataset, data_dir)
    elif dataset.startswith(HUGGING_FACE_PREFIX):
        from maskbench.data import huggingface

        huggingface.open_splits(dataset.removeprefix(HUGGING_FACE_PREFIX), data_dir, download=True)


@dataclass(frozen=True)
class _Plan:
    """How a data set is prepared, and the key under which the cache keeps the result."""

    name: str
    cache_key: dict[str, Any]
    prepare: Callable[[Path], PreparedDataset]


def _plan_images(source: ImageSource, size: tuple[int, int], channels: int, memory_gib: float) -> _Plan:
    key = {**source.cache_key, "size": size, "channels": channels, "memory_gib": memory_gib}

    def prepare(unpacked: Path) -> PreparedDataset:
        dataset = source.read(unpacked)
        with name_all_damaged(dataset):
            return prepare_images(dataset, size, channels, memory_gib)

    return _Plan(source.name, key, prepare)


def _plan_shapes(size: tuple[int, int], channels: int) -> _Plan:
    counts = {"train": shapes.TRAIN, "test": shapes.TEST}
    fingerprint = f"shapes-{shapes.VERSION}-{channels}x{size[0]}x{size[1]}"

    def generate(_: Path) -> PreparedDataset:
        splits = {split: shapes.generate(split, count, *size, channels) for split, count in counts.items()}
        return PreparedDataset(splits, shapes.CLASSES, fingerprint)

    return _Plan("shapes", {"shapes": shapes.VERSION, "size": size, "channels": channels, **counts}, generate)


def _limit_training_images(
    prepared: PreparedDataset, cache_key: dict[str, Any], limit: int | None, order_seed: int
) -> Split:
    """The first `limit` training images of the stratified order. Streamed ones are decoded once, to count their pixel
    levels; the cache keeps the counts."""
    train = prepared.splits["train"]
    if limit is None or limit >= len(train):
        return train
    limited = train.subset(stratified_order(train.labels, order_seed)[:limit].sort().values)
    if not isinstance(limited, StreamedImages):
        return limited

    def count_levels(_: Path) -> PreparedDataset:
        with ignore_repeated_warnings():
            return replace(prepared, splits={"train": limited.with_level_counts()})

    order = {"order_seed": order_seed} if order_seed else {}
    return read_or_create({**cache_key, "limit": limit, **order}, count_levels).splits["train"]
