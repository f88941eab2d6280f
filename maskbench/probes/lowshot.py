"""Low-shot probing: logistic regression from few labels."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.probe import FeatureProbe, Features, ProbeResult, accuracy, register
from maskbench.probes.linear import Decays, LinearClassifier

Share = Annotated[float, Field(gt=0, le=1)]


@register("lowshot")
@dataclass(frozen=True, kw_only=True)
class LowShot(FeatureProbe):
    """The classifier of `linear` from `shots` images a class, or from `shares` of each class, on average over `draws`.

    Which images they are depends on the data alone, so all encoders get the same ones. They are drawn from
    the part of train that is not held out. One decay for each size is chosen by the mean accuracy of the draws on
    validation, whose labels are thus used for one choice among few and never for fitting. Features are standardised by
    the moments of all of train, for which no label is needed: those of ten images would be noise. The sizes are those
    of DINO's and MSN's low-shot evaluations (arXiv 2204.07141); GMML's case (arXiv 2205.14986) is made there.
    """

    shots: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 10)
    shares: tuple[Share, ...] = (0.01, 0.1)
    draws: Annotated[int, Field(ge=2)] = 5
    decays: Decays = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)

    def ask(self, features: dict[str, Features]) -> ProbeResult:
        result = ProbeResult()
        for pooling, data in features.items():
            sizes = torch.bincount(data.fit_labels, minlength=data.classes)
            counts_by_label = {f"lowshot-{count}": torch.full_like(sizes, count) for count in self.shots}
            counts_by_label |= {f"lowshot-{100 * share:g}%": (share * sizes).round().long() for share in self.shares}
            for label, counts in counts_by_label.items():
                decay, predicted = self.choose_and_predict(data, counts.clamp_min(1))
                scores = torch.tensor([accuracy(each, data.test_labels) for each in predicted], dtype=torch.float64)
                result.predictions[f"{label}/{pooling}"] = predicted
                result.metrics[f"{label}/top1/{pooling}"] = scores.mean().item()
                result.metrics[f"{label}/sd/{pooling}"] = scores.std().item()
                result.chosen[f"{label}/decay/{pooling}"] = decay
        return result

    def choose_and_predict(self, data: Features, counts: Tensor) -> tuple[float, Tensor]:
        """Fit to a few images of each class, several times.

        Args:
            data: The features.
            counts: (classes,) images of each class. Where a class has fewer, all of its images are taken.

        Returns:
            The decay that is best on validation, and the predictions (draws, t) of test.
        """
        mean, std = data.train.mean(0), data.train.std(0, correction=0).clamp_min(1e-6)
        fit, validation, test = ((features - mean) / std for features in (data.fit, data.validation, data.test))
        decays = sorted(self.decays, reverse=True)
        draws = []  # for each draw a classifier for each decay
        for draw in range(self.draws):
            few = draw_shots(data.fit_labels, counts, draw)
            draws.append(LinearClassifier.fit(fit[few], data.fit_labels[few], data.classes, decays, standardise=False))
        scores = [
            sum(accuracy(classifiers[number].predict(validation), data.validation_labels) for classifiers in draws)
            for number in range(len(decays))
        ]
        best = scores.index(max(scores))
        return decays[best], torch.stack([classifiers[best].predict(test) for classifiers in draws])


def draw_shots(labels: Tensor, counts: Tensor, draw: int) -> Tensor:
    """The numbers of `counts` (classes,) random images of each class. A larger count keeps what a smaller one drew.

    labels: (n,) int64. draw: which of the draws.
    """
    order = CounterRNG(sample_keys(torch.arange(len(labels), device=labels.device), draw, "lowshot")).uniform()
    of_class = [torch.nonzero(labels == number)[:, 0] for number in range(len(counts))]
    pairs = zip(of_class, counts.tolist(), strict=True)
    return torch.cat([numbers[order[numbers].argsort()][:count] for numbers, count in pairs])
