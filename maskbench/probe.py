"""Everything that a probe imports: the base classes, what a probe receives, what it returns, and how it is registered.

A probe takes an encoder and data, and returns numbers and predictions on the test set. It writes no files.

Example:
    A complete probe of frozen features::

        from maskbench.probe import FeatureProbe, ProbeResult, accuracy, register

        @register("centroid")
        @dataclass(frozen=True, kw_only=True)
        class Centroid(FeatureProbe):
            def ask(self, features):
                result = ProbeResult()
                for pooling, data in features.items():
                    classes = range(data.classes)
                    means = torch.stack([data.train[data.train_labels == label].mean(0) for label in classes])
                    predicted = torch.cdist(data.test, means).argmin(1)
                    result.metrics[f"centroid/top1/{pooling}"] = accuracy(predicted, data.test_labels)
                    result.predictions[f"centroid/{pooling}"] = predicted
                return result
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from maskbench.config.settings import System
from maskbench.core.component import Component
from maskbench.core.registry import Registry
from maskbench.data.augment import central_boxes, resample
from maskbench.data.splits import Split, Splits
from maskbench.models.encoder import Encoder
from maskbench.runtime import collectives
from maskbench.runtime.hardware import autocast

__all__ = ["FeatureProbe", "Features", "Probe", "ProbeResult", "Subject", "accuracy", "register"]

CPU_BATCH_TOKENS = 8_192  # patches in a batch: 1.2 times as fast as 16,384, because of a CPU's caches
GPU_BATCH_TOKENS = 262_144

BatchReader = Callable[[Tensor], dict[str, Tensor]]
"""Type of a function that reads something off a batch: normalised images (B, C, H, W) to tensors (B, ...) by name."""


@dataclass(frozen=True)
class Features:
    """The features of all images under one pooling, and the labels.

    Choose hyper-parameters by fitting on `fit` and reading `validation`; then refit on `train` and predict `test`.

    Attributes:
        train: (n, D) float32, all training images.
        train_labels: (n,) int64, in [0, classes).
        fit: (m, D) float32, the training images that are not held out.
        fit_labels: (m,) int64.
        validation: (v, D) float32, the held-out images: a tenth of train, or the data set's own validation split.
        validation_labels: (v,) int64.
        test: (t, D) float32.
        test_labels: (t,) int64. Read them for the final numbers only.
        classes: How many there are.
    """

    train: Tensor
    train_labels: Tensor
    fit: Tensor
    fit_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


@dataclass(frozen=True)
class ProbeResult:
    """What a probe returns.

    Attributes:
        metrics: Numbers by name, `<probe>/<metric>/<features>`, e.g. {"knn/top1/cls": 0.41}. Accuracies are shares in
            [0, 1].
        predictions: (t,) int64 predicted class of each test image, or (times, t) where each is predicted several times;
            by `<probe>/<features>`. Tables test differences with them. Default: none.
        chosen: Hyper-parameters that were chosen on validation, by name. Default: none.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is probed: an encoder, and data on its device.

    Attributes:
        encoder: The encoder. A probe leaves it as it is.
        splits: The data set.
        system: Precision, number of data workers and other settings of the machine.
        seed: The run's seed, for probes that start from random weights. Default 0.
    """

    encoder: Encoder
    splits: Splits
    system: System
    seed: int = 0
    _cache: dict[int, dict[str, Features]] = field(default_factory=dict, init=False, repr=False)

    def extract(self, images: Split, read: BatchReader | None = None, *, distribute: bool = True) -> dict[str, Tensor]:
        """Read something off every image, cropped centrally and normalised; see `extract`.

        Args:
            images: Any images: a split, or some of its images.
            read: The function to call for each batch, while the encoder is in eval mode. Default: pooled features.
            distribute: False if one process must read all images in order. Default True.

        Returns:
            (n, ...) tensors by name.
        """
        return extract(self.encoder, images, self.splits, self.system, read, distribute=distribute)

    def features(self, blocks: int = 1) -> dict[str, Features]:
        """The features of all images by pooling: "cls" where the model has a class token, and "mean".

        Each image is encoded once and the result is kept, so that several probes share the cost.

        Args:
            blocks: How many of the last blocks are read, each through the last norm, and concatenated. Default 1.
        """
        if blocks not in self._cache:
            self._cache[blocks] = self._extract_features(partial(self.encoder.pooled_features, blocks=blocks))
        return self._cache[blocks]

    @property
    def validation_split(self) -> Split:
        """The validation part as images."""
        validation = self.splits.validation
        return self.splits.train.subset(validation) if isinstance(validation, Tensor) else validation

    def _extract_features(self, read: BatchReader) -> dict[str, Features]:
        splits = self.splits
        train, test = self.extract(splits.train, read), self.extract(splits.test, read)
        labels, device = splits.train.labels, self.encoder.mask_token.device
        if isinstance(splits.validation, Tensor):
            held_out = splits.validation
            validation = {pooling: values[held_out] for pooling, values in train.items()}
        else:
            validation = self.extract(splits.validation, read)
        return {
            pooling: Features(
                train=train[pooling],
                train_labels=labels.to(device),
                fit=train[pooling][splits.fit],
                fit_labels=labels[splits.fit].to(device),
                validation=validation[pooling],
                validation_labels=self.validation_split.labels.to(device),
                test=test[pooling],
                test_labels=splits.test.labels.to(device),
                classes=len(splits.classes),
            )
            for pooling in sorted(train)
        }


@dataclass(frozen=True, kw_only=True)
class Probe(Component, ABC):
    """A way to measure what an encoder has learnt. The fields of a subclass are its protocol.

    Attributes:
        version: Stands in every record and in the tables. Raise it whenever a result would change. Default 1.
        needs_labels: False if no label is read; data without labels can then be probed, and `test` holds the held-out
            training images. Default True.
    """

    needs_labels: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, subject: Subject) -> ProbeResult:
        """Probe an encoder.

        Make choices on the validation part, and read the labels of test for the final numbers only.

        Args:
            subject: The encoder and the data.

        Returns:
            Metrics, predictions on test, and what was chosen.
        """

    def incompatibility_reason(self, encoder: Encoder, splits: Splits) -> str | None:
        """Why it cannot probe this encoder with these data, and what to do; None where it can. Default: None.

        Called before a run starts, so that it fails early.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class FeatureProbe(Probe, ABC):
    """A probe that needs pooled features only."""

    @property
    def feature_blocks(self) -> int:
        """How many of the last blocks give the features. Default 1."""
        return 1

    @abstractmethod
    def ask(self, features: dict[str, Features]) -> ProbeResult:
        """Probe features.

        Args:
            features: By pooling: "cls" where the model has a class token, and "mean", the mean of the patches.

        Returns:
            Metrics, predictions on test, and what was chosen, for each pooling.
        """

    def __call__(self, subject: Subject) -> ProbeResult:
        """Probe the pooled features of an encoder."""
        return self.ask(subject.features(self.feature_blocks))


REGISTRY: Registry[Probe] = Registry("probe", "maskbench.probes")
"""All probes by name."""

register = REGISTRY.register
"""Class decorator that gives a probe its name: `@register("my-probe")`, above `@dataclass`."""


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of correct predictions, in [0, 1].

    Args:
        predicted: int64, any shape.
        labels: int64, the same shape.
    """
    return (predicted == labels).double().mean().item()


@torch.inference_mode()
def extract(
    encoder: Encoder,
    images: Split,
    splits: Splits,
    system: System,
    read: BatchReader | None = None,
    *,
    distribute: bool = True,
) -> dict[str, Tensor]:
    """Read something off every image, cropped centrally and normalised, while the encoder is in eval mode.

    Args:
        encoder: Gives the size and the device of the images.
        images: The images to read.
        splits: The data set, for its mean and standard deviation.
        system: For the precision.
        read: The function to call for each batch. Default: pooled features, (n, D) float32 by pooling.
        distribute: Whether processes share the batches. The batches are the same as in one process, and every process
            gets all results.

    Returns:
        (n, ...) tensors by name, on the encoder's device.
    """
    read = read or encoder.pooled_features
    training = encoder.training
    encoder.eval()
    size, device = encoder.grid.image_size, encoder.mask_token.device
    results: dict[str, Tensor] = {}
    batch_size = max(1, (GPU_BATCH_TOKENS if device.type == "cuda" else CPU_BATCH_TOKENS) // encoder.grid.size)
    batches = torch.arange(len(images), device=images.labels.device).split(batch_size)
    bounds = collectives.split_among_ranks(len(batches)) if distribute else None
    start, end = (0, len(batches)) if bounds is None else bounds[collectives.rank()]
    for number in range(start, end):
        batch = images.take(batches[number]).to(device)
        with autocast(system):
            values = read(resample(batch, central_boxes(batch, size), size, splits.mean, splits.std))
        _store(results, values, number * batch_size, len(images))
    encoder.train(training)
    if bounds is not None:
        rows = [(start * batch_size, min(end * batch_size, len(images))) for start, end in bounds]
        for result in results.values():
            collectives.all_gather_rows(result, rows)
    return results


def _store(results: dict[str, Tensor], values: dict[str, Tensor], start: int, total: int) -> None:
    """Write the values (B, ...) of a batch to the rows from `start` of the results (total, ...).

    Results are allocated once: small tensors between short-lived ones would keep gigabytes of heap from the system.
    """
    for name, value in values.items():
        if name not in results:
            results[name] = value.new_empty(total, *value.shape[1:])
        results[name][start : start + len(value)] = value
