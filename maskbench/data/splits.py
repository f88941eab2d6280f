"""A data set as a run sees it: images, labels, and which split serves which purpose."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from maskbench.core.rng import CounterRNG, sample_keys

VALIDATION_SHARE = 0.1


class Split(ABC):
    """Images that are in memory (`Images`) or read when they are needed (`StreamedImages`).

    Attributes:
        labels: (N,) int64, on the device on which `take` puts the images; zeros where images have no labels.
        objects: (N, H, W) bool, True on the object, or None where it is not known.
    """

    labels: Tensor
    objects: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def take(self, index: Tensor) -> "Images":
        """Load the images at `index` (B,) int64, in this order, into memory."""

    @abstractmethod
    def subset(self, index: Tensor) -> "Split":
        """The images at `index` (B,) int64, in this order, as a split. Streamed images are not read."""

    @abstractmethod
    def to(self, device: torch.device) -> "Split":
        """The same split, whose `take` puts images on `device`."""

    def without_objects(self) -> "Split":
        """The same split without object masks, for training, which does not use them."""
        return self

    @abstractmethod
    def count_levels(self) -> Tensor:
        """(C, 256) int64: the number of pixels of each channel that have each level."""


@dataclass(frozen=True)
class Images(Split):
    """One split, or a batch of it, in memory. The cache stores these fields by name.

    Attributes:
        pixels: (N, C, H, W) uint8, all on a canvas of one size.
        labels: (N,) int64, the class of each image.
        stretch: (N,) float32, aspect of the original (width / height) over that of the canvas; 1 = not distorted.
        objects: (N, H, W) bool, True on the object, or None where it is not known. They stay on the CPU.
    """

    pixels: Tensor
    labels: Tensor
    stretch: Tensor
    objects: Tensor | None = None

    def take(self, index: Tensor) -> "Images":
        """See `Split`."""
        objects = None if self.objects is None else self.objects[index.to(self.objects.device)]
        return Images(self.pixels[index], self.labels[index], self.stretch[index], objects)

    def subset(self, index: Tensor) -> "Images":
        """See `Split`."""
        return self.take(index)

    def without_objects(self) -> "Images":
        """See `Split`. `take` then never waits for the device, as it does to copy the index to the CPU for objects."""
        return replace(self, objects=None)

    def count_levels(self) -> Tensor:
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

    Pre-training uses all of `train`; training on labels uses `fit`. Choices are made by fitting on `fit` and scoring on
    `validation`; then everything is fitted again on all of `train`, and the labels of `test` are read once.

    Attributes:
        name: Name of the data set.
        train: The training images.
        test: The test images; none where images have no labels.
        validation: Images for choices: (V,) int64 indices into `train`, or a split of its own.
        fit: (F,) int64 indices into `train`: the images to fit on before a choice.
        classes: Class names; empty where images have no labels, which are then zeros.
        fingerprint: Identifies the data set's content in records.
        mean: (C,) float32, mean of the training pixels in [0, 1].
        std: (C,) float32, their standard deviation.
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
        """Number of images in each part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}

    def without_test(self) -> "Splits":
        """For choices between settings: `fit` becomes train, and validation takes the place of test."""
        train, held_out = self.train.subset(self.fit), self.validation
        if isinstance(held_out, Tensor):
            held_out = self.train.subset(held_out)
        return replace(self, train=train, fit=torch.arange(len(train)), validation=held_out, test=held_out)

    def without_validation(self) -> "Splits":
        """For training on labels: `fit` becomes train, so that the validation labels can still choose for a probe."""
        if not isinstance(self.validation, Tensor):
            return self
        train, held_out = self.train.subset(self.fit), self.train.subset(self.validation)
        return replace(self, train=train, fit=torch.arange(len(train)), validation=held_out)

    def to(self, device: torch.device) -> "Splits":
        """The same data set on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            test=self.test.to(device),
            validation=self.validation.to(device),
            fit=self.fit.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


def stratified_order(labels: Tensor, seed: int = 0) -> Tensor:
    """(N,) int64: an order, fixed by `seed`, in which every prefix holds the classes of `labels` (N,) in proportion."""
    noise = CounterRNG(sample_keys(torch.arange(len(labels)), seed, "stratified")).uniform()
    by_class = (labels.double() + noise.double() * 0.999).argsort()  # random within a class
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(labels)) - starts[labels[by_class]]
    quantile = (rank + noise[by_class].double()) / sizes[labels[by_class]]
    return by_class[quantile.argsort()]


def build_splits(
    name: str,
    train: Split,
    test: Split,
    *,
    classes: tuple[str, ...],
    fingerprint: str,
    validation: Split | None = None,
    order_seed: int = 0,
) -> Splits:
    """Make `Splits`, with the mean and standard deviation of the training pixels.

    Args:
        name: As in `Splits`, like all that is not named here.
        train: The training images.
        test: The test images.
        classes: Class names.
        fingerprint: Identifies the content.
        validation: A split of its own for choices. Default: hold out a stratified tenth of train, at least one image.
        order_seed: Of the order that says which tenth.
    """
    if validation is None:
        order = stratified_order(train.labels, order_seed)
        count = max(1, round(VALIDATION_SHARE * len(train)))
        held_out: Tensor | Split = order[:count].sort().values
        fit = order[count:].sort().values
    else:
        held_out, fit = validation, torch.arange(len(train))
    mean, std = mean_and_std(train.count_levels())
    return Splits(name, train, test, held_out, fit, classes, fingerprint, mean, std)


def mean_and_std(level_counts: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) mean and standard deviation of pixels scaled to [0, 1], from how many have each level (C, 256)."""
    counts = level_counts.double()
    value = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ value
    variance = (share * (value - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.sqrt().clamp_min(1e-6).float()
