"""What a probe is: an encoder and data in, numbers and test predictions out. Probes know nothing of files."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from maskbench.config.schema import System
from maskbench.core.component import Component
from maskbench.core.registry import Registry
from maskbench.data.augment import central_boxes, resample
from maskbench.data.splits import Split, Splits
from maskbench.models.encoder import Encoder
from maskbench.runtime import distributed
from maskbench.runtime.hardware import autocast


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
    """metrics: e.g. {"knn/top1/cls": 0.41}, shares in [0, 1] where they are accuracies. predictions: of the test part,
    int64, (n,) or, where images are asked about several times, (times, n), by the same kind of key. chosen:
    hyper-parameters picked on the validation part."""

    metrics: dict[str, float] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)


TOKENS = {False: 8_192, True: 262_144}  # in a batch, on a GPU or not; a CPU's caches want few (1.2 times over 16,384)
Read = Callable[[Tensor], dict[str, Tensor]]  # normalised images (B, C, H, W) -> (B, ...) each


@dataclass(frozen=True)
class Subject:
    """What a probe asks: an encoder, which it leaves as it is, and data on the encoder's device.

    seed: the run's, for probes that train something from a random start.
    """

    encoder: Encoder
    splits: Splits
    system: System
    seed: int = 0
    _known: dict[int, dict[str, Features]] = field(default_factory=dict, init=False, repr=False)

    def extract(self, images: Split, read: Read | None = None, *, shared: bool = True) -> dict[str, Tensor]:
        """What `read`, which calls the encoder, says of clean images; their pooled features if it is not given. shared:
        False for one that must be called with all images, in order."""
        return extract(self.encoder, images, self.splits, self.system, read, shared=shared)

    def features(self, blocks: int = 1) -> dict[str, Features]:
        """By pooling, the concatenated features of the last `blocks` blocks of every image, each encoded once."""
        if blocks not in self._known:
            self._known[blocks] = self._features(partial(self.encoder.pooled, blocks=blocks))
        return self._known[blocks]

    @property
    def held_out(self) -> Split:
        """The validation part as images."""
        validation = self.splits.validation
        return self.splits.train.part(validation) if isinstance(validation, Tensor) else validation

    def _features(self, read: Read) -> dict[str, Features]:
        splits = self.splits
        train, test = self.extract(splits.train, read), self.extract(splits.test, read)
        labels, device = splits.train.labels, self.encoder.mask_token.device
        if isinstance(splits.validation, Tensor):
            held_out = splits.validation
            validation = {pooling: values[held_out] for pooling, values in train.items()}
        else:
            validation = self.extract(splits.validation, read)
        given = Features(
            train=train["mean"],
            train_labels=labels.to(device),
            fit=train["mean"],
            fit_labels=labels[splits.fit].to(device),
            validation=validation["mean"],
            validation_labels=self.held_out.labels.to(device),
            test=test["mean"],
            test_labels=splits.test.labels.to(device),
            classes=len(splits.classes),
        )
        return {
            pooling: replace(
                given,
                train=train[pooling],
                fit=train[pooling][splits.fit],
                validation=validation[pooling],
                test=test[pooling],
            )
            for pooling in sorted(train)
        }


@dataclass(frozen=True, kw_only=True)
class Probe(Component, ABC):
    """A question to an encoder. Fields are its protocol; `version` goes up whenever an answer would change."""

    @abstractmethod
    def __call__(self, subject: Subject) -> ProbeResult:
        """The answers. Choices are made on validation; the labels of test are read for the final numbers alone."""

    def refuses(self, encoder: Encoder, splits: Splits) -> str | None:
        """Why it cannot be asked of this encoder and these data, with the remedy; None where it can."""
        return None


@dataclass(frozen=True, kw_only=True)
class FeatureProbe(Probe, ABC):
    """A question to features alone."""

    @property
    def read_blocks(self) -> int:
        """How many of the last blocks give the features."""
        return 1

    @abstractmethod
    def ask(self, features: dict[str, Features]) -> ProbeResult:
        """The answers for each pooling."""

    def __call__(self, subject: Subject) -> ProbeResult:
        return self.ask(subject.features(self.read_blocks))


REGISTRY: Registry[Probe] = Registry("probe", "maskbench.probes")
register = REGISTRY.register


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries, in [0, 1]."""
    return (predicted == labels).double().mean().item()


@torch.inference_mode()
def extract(
    encoder: Encoder,
    images: Split,
    splits: Splits,
    system: System,
    read: Read | None = None,
    *,
    shared: bool = True,
) -> dict[str, Tensor]:
    """What `read` says of clean images, centrally cropped, while the encoder is in eval mode; by default its features
    (n, D) float32 by pooling. shared: each process reads whole batches, the same as one process would; all get all."""
    read = read or encoder.pooled
    training = encoder.training
    encoder.eval()
    size, device = encoder.grid.image_size, encoder.mask_token.device
    found: dict[str, Tensor] = {}
    most = max(1, TOKENS[device.type == "cuda"] // encoder.grid.size)
    batches = torch.arange(len(images), device=images.labels.device).split(most)
    bounds = distributed.shares(len(batches)) if shared else None
    start, end = (0, len(batches)) if bounds is None else bounds[distributed.rank()]
    for number in range(start, end):
        batch = images.take(batches[number]).to(device)
        with autocast(system):
            said = read(resample(batch, central_boxes(batch, size), size, splits.mean, splits.std))
        for name, values in said.items():
            # One place for all: small ones between what comes and goes would keep gigabytes of heap from the system.
            if name not in found:
                found[name] = values.new_empty(len(images), *values.shape[1:])
            found[name][number * most : number * most + len(batch)] = values
    encoder.train(training)
    if bounds is not None:
        rows = [(start * most, min(end * most, len(images))) for start, end in bounds]
        for values in found.values():
            distributed.exchange(values, rows)
    return found
