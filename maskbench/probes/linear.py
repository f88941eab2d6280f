"""Logistic regression on frozen features."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbench.probe import Features, Probe, ProbeResult, accuracy, register

CURVATURE = 0.1  # p * (1 - p) of a ten-class softmax that is still unsure


@register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(Probe):
    """Multinomial logistic regression, full-batch L-BFGS to convergence, on features standardised by train.

    Minimises the mean cross-entropy + decay / 2 * |W|^2 (bias free). The decay is chosen among `decays` by accuracy
    on the validation part (ties: the largest); then everything is refitted on all of train. No augmentation and no
    learning rate, so nothing is left to luck or to tune.
    """

    decays: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)

    def __call__(self, features: dict[str, Features]) -> ProbeResult:
        result = ProbeResult()
        for pooling, given in features.items():
            decay = self.choose(given)
            fitted = Softmax.fit(given.train, given.train_labels, given.classes, [decay])[0]
            predicted = fitted.predict(given.test)
            result.metrics[f"linear/top1/{pooling}"] = accuracy(predicted, given.test_labels)
            result.predictions[f"linear/{pooling}"] = predicted
            result.chosen[f"linear/decay/{pooling}"] = decay
        return result

    def choose(self, given: Features) -> float:
        """The decay with the best validation accuracy."""
        decays = sorted(self.decays, reverse=True)
        fitted = Softmax.fit(given.fit, given.fit_labels, given.classes, decays)
        scores = [accuracy(one.predict(given.validation), given.validation_labels) for one in fitted]
        return decays[scores.index(max(scores))]


@dataclass(frozen=True)
class Softmax:
    """A fitted classifier: argmax of (features - mean) @ weight + bias, the standardisation being part of `weight`."""

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """(n,) int64."""
        return ((features - self.mean) @ self.weight + self.bias).argmax(1)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, classes: int, decays: list[float]) -> list["Softmax"]:
        """One classifier per decay, each started from the one before, so give the decays in descending order.

        The problem is solved in the basis of principal components, each scaled by its expected curvature: the same
        minimum in 5 to 8 times fewer steps, because the curvature is about CURVATURE * variance + decay.
        """
        mean, std = features.mean(0), features.std(0, correction=0)
        inputs = (features - mean) / std.clamp_min(1e-6)
        variances, components = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
        inputs = inputs @ components
        back = components / std.clamp_min(1e-6)[:, None]
        weight = torch.zeros(inputs.shape[1], classes, device=inputs.device)
        bias = torch.zeros(classes, device=inputs.device, requires_grad=True)
        fitted = []
        for decay in decays:
            scale = (CURVATURE * variances.clamp_min(0) + decay).rsqrt()[:, None]
            weight = _minimise(inputs, labels, weight, bias, scale, decay)
            fitted.append(cls(mean, back @ weight, bias.detach().clone()))
        return fitted


def _minimise(inputs: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, decay: float) -> Tensor:
    """The best weight (D, classes), searched for as scale * variable from `weight`; `bias` is changed in place."""
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
        loss = F.cross_entropy(inputs @ scaled + bias, labels) + decay / 2 * scaled.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (scale * variable).detach()
