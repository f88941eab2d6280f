"""A data set as a run sees it: images, labels, and which part serves which purpose."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from maskbench.core.rng import Draws, keys

VALIDATION_SHARE = 0.1


class Split(ABC):
    """Images by number, in memory or to be read.

    labels: (N,) int64, on the device on which images are given. objects: (N, H, W) bool, where known.
    """

    labels: Tensor
    objects: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def take(self, index: Tensor) -> "Images":
        """The images of these numbers, in this order, in memory."""

    @abstractmethod
    def part(self, index: Tensor) -> "Split":
        """A split of these images, in this order, that are where they are."""

    @abstractmethod
    def to(self, device: torch.device) -> "Split":
        """The same split, whose images are given on `device`."""

    def bare(self) -> "Split":
        """The same split without objects, for training, which has no use for them."""
        return self

    @abstractmethod
    def levels(self) -> Tensor:
        """(C, 256) int64: how many pixels of each channel have each level."""


@dataclass(frozen=True)
class Images(Split):
    """One split in memory.

    pixels: (N, C, H, W) uint8. labels: (N,) int64. stretch: (N,) float32, how much wider than tall the original is
    compared to the stored canvas (1 = stored undistorted). objects: (N, H, W) bool, True on the object, where known.
    """

    pixels: Tensor
    labels: Tensor
    stretch: Tensor
    objects: Tensor | None = None

    def take(self, index: Tensor) -> "Images":
        """The images of these numbers, in this order."""
        objects = None if self.objects is None else self.objects[index.to(self.objects.device)]
        return Images(self.pixels[index], self.labels[index], self.stretch[index], objects)

    def part(self, index: Tensor) -> "Images":
        """What `take` gives."""
        return self.take(index)

    def bare(self) -> "Images":
        """See `Split`; `take` then asks the device for no number, as it does for objects, which stay on the CPU."""
        return replace(self, objects=None)

    def levels(self) -> Tensor:
        """See `Split`."""
        return torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in self.pixels.unbind(1)])

    def to(self, device: torch.device) -> "Images":
        """The same split with its pixels, labels and stretch on `device`."""
        return replace(
            self, pixels=self.pixels.to(device), labels=self.labels.to(device), stretch=self.stretch.to(device)
        )


@dataclass(frozen=True)
class Splits:
    """A data set as a run sees it.

    Pre-training uses all of `train`. Choices are made by fitting on `fit` (numbers into train) and reading
    `validation`; then everything is refitted on all of train, and the labels of `test` are read once.
    validation: numbers into train, or a split of its own. classes: their names, none where images have no labels; then
    test is empty and the labels are zeros. mean, std: (C,) of the training pixels in [0, 1].
    """

    name: str
    train: Split
    test: Split
    validation: Tensor | Split
    fit: Tensor
    classes: tuple[str, ...]
    fingerprint: str
    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    def without_test(self) -> "Splits":
        """For choices: `fit` is train, and validation takes the place of test, which is not there."""
        train, held_out = self.train.part(self.fit), self.validation
        if isinstance(held_out, Tensor):
            held_out = self.train.part(held_out)
        return replace(self, train=train, fit=torch.arange(len(train)), validation=held_out, test=held_out)

    def to(self, device: torch.device) -> "Splits":
        """The same data set on `device`."""
        train, test, validation = self.train.to(device), self.test.to(device), self.validation.to(device)
        fit, mean, std = (part.to(device) for part in (self.fit, self.mean, self.std))
        return replace(self, train=train, test=test, validation=validation, fit=fit, mean=mean, std=std)


def stratified_order(labels: Tensor) -> Tensor:
    """(N,) int64: an order fixed by seed 0 in which every prefix holds the classes in proportion."""
    noise = Draws(keys(torch.arange(len(labels)), 0, "stratified")).uniform()
    by_class = (labels.double() + noise.double() * 0.999).argsort()  # random within a class
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(labels)) - starts[labels[by_class]]
    place = (rank + noise[by_class].double()) / sizes[labels[by_class]]
    return by_class[place.argsort()]


def assemble(
    name: str,
    train: Split,
    test: Split,
    *,
    classes: tuple[str, ...],
    fingerprint: str,
    validation: Split | None = None,
) -> Splits:
    """Splits with a validation part.

    Without a validation split, a stratified tenth of train (at least one image) is held out for choices.
    """
    if validation is None:
        order = stratified_order(train.labels)
        held_out = max(1, round(VALIDATION_SHARE * len(train)))
        choice: Tensor | Split = order[:held_out].sort().values
        fit = order[held_out:].sort().values
    else:
        choice, fit = validation, torch.arange(len(train))
    mean, std = moments(train.levels())
    return Splits(name, train, test, choice, fit, classes, fingerprint, mean, std)


def moments(levels: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) mean and standard deviation of pixels scaled to [0, 1], from how many of them have each level (C, 256)."""
    counts = levels.double()
    value = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ value
    variance = (share * (value - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.sqrt().clamp_min(1e-6).float()
