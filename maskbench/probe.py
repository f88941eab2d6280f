"""What a probe is: frozen features in, numbers and test predictions out. Probes know nothing of files."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maskbench.component import Component
from maskbench.config import System
from maskbench.data.augment import central_boxes, resample
from maskbench.data.splits import Images, Splits
from maskbench.registry import Registry
from maskbench.system import autocast
from maskbench.vit import Encoder


@dataclass(frozen=True)
class Features:
    """Features of one pooling ("cls" or "mean") and the labels, by purpose.

    Choose by fitting on `fit` and reading `validation`; then refit on `train` and predict `test`.
    Features are (n, D) float32, labels (n,) int64.
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
    """metrics: e.g. {"knn/top1/cls": 0.41}, shares in [0, 1]. predictions: test predictions (n,) int64 by the same
    kind of key. chosen: hyper-parameters picked on the validation part."""

    metrics: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Probe(Component, ABC):
    """A question to frozen features. Fields are its protocol; `version` goes up whenever an answer would change."""

    @abstractmethod
    def __call__(self, features: dict[str, Features]) -> ProbeResult:
        """The answers for each pooling. The labels of test are read for the final accuracy alone."""


BATCH = {False: 125, True: 1000}  # images at a time, on a GPU or not; a CPU's caches want few (1.7 times over 500)

REGISTRY: Registry[Probe] = Registry("probe", "maskbench.probes")
register = REGISTRY.register


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries, in [0, 1]."""
    return (predicted == labels).double().mean().item()


@torch.inference_mode()
def extract(encoder: Encoder, images: Images, splits: Splits, system: System) -> dict[str, Tensor]:
    """Features (n, D) float32 by pooling of clean images, centrally cropped, from the encoder in eval mode."""
    training = encoder.training
    encoder.eval()
    size, device = encoder.grid.image_size, encoder.mask_token.device
    parts: list[dict[str, Tensor]] = []
    for index in torch.arange(len(images)).split(BATCH[device.type == "cuda"]):
        batch = images.take(index.to(images.labels.device)).to(device)
        with autocast(system):
            parts.append(encoder.pooled(resample(batch, central_boxes(batch, size), size, splits.mean, splits.std)))
    encoder.train(training)
    return {pooling: torch.cat([part[pooling] for part in parts]) for pooling in parts[0]}


def features_of(encoder: Encoder, splits: Splits, system: System) -> dict[str, Features]:
    """Everything that probes need, each image encoded once. `splits` are on the encoder's device."""
    train, test = extract(encoder, splits.train, splits, system), extract(encoder, splits.test, splits, system)
    device = encoder.mask_token.device
    labels, fit = splits.train.labels.to(device), splits.fit.to(device)
    if isinstance(splits.validation, Tensor):
        held_out = splits.validation.to(device)
        validation = {pooling: values[held_out] for pooling, values in train.items()}
        validation_labels = labels[held_out]
    else:
        validation = extract(encoder, splits.validation, splits, system)
        validation_labels = splits.validation.labels.to(device)
    return {
        pooling: Features(
            train=train[pooling],
            train_labels=labels,
            fit=train[pooling][fit],
            fit_labels=labels[fit],
            validation=validation[pooling],
            validation_labels=validation_labels,
            test=test[pooling],
            test_labels=splits.test.labels.to(device),
            classes=len(splits.classes),
        )
        for pooling in sorted(train)
    }
