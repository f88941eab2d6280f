"""What each kind of source (folders, tar shards, ...) hands over: encoded images by split, and the class names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from maskbench.data.classes import ensure_learnable_classes
from maskbench.data.encoded_images import EncodedImages
from maskbench.errors import UsageError

SPLIT_NAMES = {  # what files, folders and data sets call a split -> what we call it
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True)
class EncodedDataset:
    """A data set before its images are decoded.

    Attributes:
        splits: Images by split: "train", perhaps "test" and "validation".
        classes: Class names in the order of the labels; empty where images have no labels.
    """

    splits: dict[str, EncodedImages]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a data set are.

    Attributes:
        name: Name of the data set, for records and messages.
        cache_key: Identifies the images, as JSON: it changes whenever they change.
        read: Finds the images. It may write encoded images to the file that it gets, which need not exist yet.
        left_out: The files that are not read, such as "3 files .heic"; empty where there are none.
        explain_labels: Says what to do so that images get labels, where they have none.
    """

    name: str
    cache_key: dict[str, Any]
    read: Callable[[Path], EncodedDataset]
    left_out: str = ""
    explain_labels: Callable[[], str] = lambda: "label them"


def find_split(path: Path, *, anywhere: bool = False) -> str | None:
    """The split of a file: by the words of its own name, else by those of the nearest folder that has one.

    Args:
        path: Relative to the data set's folder.
        anywhere: Whether a word may stand anywhere in a name (`trips-train-0000.tar`), or only at its beginning.

    Raises:
        UsageError: One name has the words of several splits.
    """
    for name in (path.name, *(parent.name for parent in path.parents)):
        words = re.split(r"[^a-z]+", name.lower())
        splits = {SPLIT_NAMES[word] for word in (words if anywhere else words[:1]) if word in SPLIT_NAMES}
        if len(splits) > 1:
            raise UsageError(
                f"{name} names several splits ({', '.join(sorted(splits))}); rename it so that it names one"
            )
        if splits:
            return splits.pop()
    return None


def find_labelled_splits(root: Path, unlabelled: Mapping[str, Tensor]) -> list[str]:
    """Find the splits whose images have labels. Published test sets often hide them: every label is then negative.

    Args:
        root: Where the data set is, for the message.
        unlabelled: (N,) bool by split, True where a label is negative.

    Raises:
        UsageError: Only some of the images of a split have labels.
    """
    for split, missing in unlabelled.items():
        if missing.any() and not missing.all():
            raise UsageError(
                f"{int(missing.sum())} of the {len(missing)} images of the split {split} in {root} have no label, or "
                f"a negative one; remove them, or number the classes from 0"
            )
    return [split for split, missing in unlabelled.items() if not missing.any()]


def select_splits(root: Path, dataset: EncodedDataset, expected: str) -> EncodedDataset:
    """Keep the splits that have labels, and make sure that there are a training and a test split.

    Where the training images have no labels, they are all that is kept. A validation split serves as test split where
    there is no other, as with ImageNet.

    Args:
        root: Where the data set is, for messages.
        dataset: What was found there; a negative label means none.
        expected: What should have been found, for messages.

    Raises:
        UsageError: The training or the test split is missing, a split has no images, only some images of a split have
            labels, or the classes are such that no probe can learn them.
    """
    for split, images in dataset.splits.items():
        if not len(images):
            raise UsageError(f"the split {split} of {root} has no images; fill it, or remove it")
    labelled = find_labelled_splits(root, {split: images.labels < 0 for split, images in dataset.splits.items()})
    if "train" in dataset.splits and "train" not in labelled:
        return EncodedDataset({"train": dataset.splits["train"].without_labels()}, ())
    splits = {split: dataset.splits[split] for split in labelled}
    if not dataset.classes and "train" in splits:
        return EncodedDataset(splits, ())
    if "train" not in splits:
        raise UsageError(
            f"no training split in {root}: expected {expected}; "
            f"found {', '.join(sorted(splits)) or 'nothing of the kind'}"
        )
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    if "test" not in splits:
        raise UsageError(
            f"no test split in {root}: expected test*.parquet or test/<class>/<image> beside train, with labels"
        )
    ensure_learnable_classes(root, {split: images.labels for split, images in splits.items()}, dataset.classes)
    return EncodedDataset(splits, dataset.classes)
