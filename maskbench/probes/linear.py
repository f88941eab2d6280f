"""Linear probing: logistic regression on frozen features."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from maskbench.data.splits import Splits
from maskbench.models.encoder import Encoder
from maskbench.probe import FeatureProbe, Features, ProbeResult, accuracy, register

Decays = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]

CURVATURE = 0.1  # p * (1 - p) of a ten-class softmax that is still unsure


@register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(FeatureProbe):
    """Multinomial logistic regression, full-batch L-BFGS to convergence, on features standardised by train.

    Minimises the mean cross-entropy + decay / 2 * |W|^2 (bias free). The decay is chosen among `decays` by accuracy
    on the validation part (ties: the largest); then everything is refitted on all of train. No augmentation and no
    learning rate, so nothing is left to chance or to tuning. Standardising by the moments of all of train is what the
    batch norm without parameters before MAE's linear probe (arXiv 2111.06377) estimates; `standardise: false` leaves
    features as they are but for centring, which moves the free bias alone.

    `blocks`: the features of so many of the last blocks, each through the last norm, side by side; 4 as in DINO's
    linear evaluation of small models (arXiv 2104.14294). Default: the last block alone.
    """

    version: ClassVar[int] = 2  # 1 ended at a decay of 1e-5, which half of all runs chose

    decays: Decays = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7)
    blocks: Annotated[int, Field(ge=2)] | None = None
    standardise: Literal[False] | None = None  # None: features are standardised

    @property
    def feature_blocks(self) -> int:
        return self.blocks or 1

    def incompatibility_reason(self, encoder: Encoder, splits: Splits) -> str | None:
        if self.feature_blocks > len(encoder.vit.blocks):
            return f"linear:blocks={self.blocks}: the model has {len(encoder.vit.blocks)} blocks; read fewer"
        return None

    def ask(self, features: dict[str, Features]) -> ProbeResult:
        result = ProbeResult()
        label = "linear" + (f"-{self.blocks}" if self.blocks else "") + ("-raw" if self.standardise is False else "")
        for pooling, data in features.items():
            decay, classifier = self.fit(data)
            predicted = classifier.predict(data.test)
            result.metrics[f"{label}/top1/{pooling}"] = accuracy(predicted, data.test_labels)
            result.predictions[f"{label}/{pooling}"] = predicted
            result.chosen[f"{label}/decay/{pooling}"] = decay
        return result

    def fit(self, data: Features) -> tuple[float, "LinearClassifier"]:
        """Choose the decay by validation accuracy, and fit a classifier with it to all of train."""
        decays, standardise = sorted(self.decays, reverse=True), self.standardise is None
        candidates = LinearClassifier.fit(data.fit, data.fit_labels, data.classes, decays, standardise=standardise)
        scores = [accuracy(each.predict(data.validation), data.validation_labels) for each in candidates]
        best = decays[scores.index(max(scores))]
        (classifier,) = LinearClassifier.fit(
            data.train, data.train_labels, data.classes, [best], standardise=standardise
        )
        return best, classifier


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted classifier: argmax of (features - mean) @ weight + bias.

    Attributes:
        mean: (D,) mean of the features that it was fitted to.
        weight: (D, classes). Their standard deviation is divided out in it.
        bias: (classes,).
    """

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(..., classes) logits of features (..., D)."""
        return (features - self.mean) @ self.weight + self.bias

    def predict(self, features: Tensor) -> Tensor:
        """(n,) int64 classes of features (n, D)."""
        return self.logits(features).argmax(1)

    @classmethod
    def fit(
        cls, features: Tensor, labels: Tensor, classes: int, decays: list[float], *, standardise: bool = True
    ) -> list["LinearClassifier"]:
        """Fit a classifier for each decay.

        The problem is solved in the basis of principal components, each scaled by its expected curvature: the same
        minimum in 5 to 8 times fewer steps, because the curvature is about CURVATURE * variance + decay.

        Args:
            features: (n, D).
            labels: (n,) int64, or (n, classes) shares of each class that sum to 1.
            classes: How many there are.
            decays: Of the weights, in descending order: each fit starts from the one before.
            standardise: Whether features are divided by their standard deviation.
        """
        mean, std = features.mean(0), features.std(0, correction=0)
        if not standardise:
            std = torch.ones_like(std)
        inputs = (features - mean) / std.clamp_min(1e-6)
        variances, components = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
        inputs = inputs @ components
        to_features = components / std.clamp_min(1e-6)[:, None]
        weight = torch.zeros(classes, inputs.shape[1], device=inputs.device)
        bias = torch.zeros(classes, device=inputs.device, requires_grad=True)
        classifiers = []
        for decay in decays:
            scale = (CURVATURE * variances.clamp_min(0) + decay).rsqrt()
            weight = _minimise(inputs, labels, weight, bias, scale, decay)
            classifiers.append(cls(mean, to_features @ weight.T, bias.detach().clone()))
        return classifiers


def _minimise(inputs: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, decay: float) -> Tensor:
    """The best weight (classes, D), searched for as scale * variable from `weight`; `bias` is changed in place.

    Laid out as (classes, D), the gradient is a product that a CPU does 4 times as fast as (D, n) times (n, classes).
    """
    variable = (weight / scale).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [variable, bias],
        max_iter=200,
        history_size=20,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = scale * variable
        loss = F.cross_entropy(F.linear(inputs, scaled, bias), labels) + decay / 2 * scaled.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (scale * variable).detach()
