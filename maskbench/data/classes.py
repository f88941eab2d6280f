"""What the classes of a data set must be, so that a probe can learn them and its accuracy means something."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from maskbench.errors import UsageError

MAX_NAMED = 5  # classes in a message
MAX_CLASSES = 1_000_000  # a larger label is a mistake, or meant to fill the memory with names


def ensure_learnable_classes(root: Path, labels: Mapping[str, Tensor], classes: Sequence[str]) -> None:
    """Make sure that a probe can learn every class that it is scored on.

    Args:
        root: Where the data set is, for messages.
        labels: (N,) int64 by split, among them "train".
        classes: The classes' names in the order of the labels.

    Raises:
        UsageError: All training images are of one class, or another split has a class without training images.
    """
    trained = set(labels["train"].unique().tolist())
    if len(trained) == 1:
        raise UsageError(
            f"all training images of {root} are of one class, {classes[trained.pop()]}; add others, or leave the class "
            f"out to pre-train without labels"
        )
    for split in sorted(labels.keys() - {"train"}):
        missing = sorted(set(labels[split].unique().tolist()) - trained)
        if missing:
            raise UsageError(
                f"the split {split} of {root} has classes without a training image: "
                f"{_name_some([classes[label] for label in missing])}; add training images, or remove these"
            )


def number_classes(root: Path, count: int) -> tuple[str, ...]:
    """The names "0", "1", ... of `count` classes that have none. UsageError where they are more than MAX_CLASSES."""
    if count > MAX_CLASSES:
        raise UsageError(
            f"{root} has a label {count - 1}, and labels end at {MAX_CLASSES - 1:,}; number the classes from 0"
        )
    return tuple(map(str, range(count)))


def warn_of_similar_classes(name: str, classes: Sequence[str]) -> None:
    """Warn of classes of the data set `name` whose names differ only in case or in spaces around them."""
    groups: dict[str, list[str]] = {}
    for of_class in classes:
        groups.setdefault(of_class.strip().casefold(), []).append(of_class)
    similar = [" and ".join(map(repr, group)) for group in groups.values() if len(set(group)) > 1]
    if similar:
        warnings.warn(
            f"{name} has classes that differ only in case or spaces: {_name_some(similar)}; "
            f"they count as different classes",
            stacklevel=3,
        )


def _name_some(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
