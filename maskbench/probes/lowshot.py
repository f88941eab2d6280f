"""Logistic regression from few labels."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from maskbench.core.rng import Draws, keys
from maskbench.probe import FeatureProbe, Features, ProbeResult, accuracy, register
from maskbench.probes.linear import Decays, Softmax

Share = Annotated[float, Field(gt=0, le=1)]


@register("lowshot")
@dataclass(frozen=True, kw_only=True)
class LowShot(FeatureProbe):
    """The classifier of `linear` from so many images a class, or such a share of each, on average over `draws`.

    Which images they are depends on the data alone, so all encoders are asked with the same ones. They are drawn from
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
        for pooling, given in features.items():
            sizes = torch.bincount(given.fit_labels, minlength=given.classes)
            wanted = {f"lowshot-{count}": torch.full_like(sizes, count) for count in self.shots}
            wanted |= {f"lowshot-{100 * share:g}%": (share * sizes).round().long() for share in self.shares}
            for label, counts in wanted.items():
                decay, predicted = self.predictions(given, counts.clamp_min(1))
                scores = torch.tensor([accuracy(each, given.test_labels) for each in predicted], dtype=torch.float64)
                result.predictions[f"{label}/{pooling}"] = predicted
                result.metrics[f"{label}/top1/{pooling}"] = scores.mean().item()
                result.metrics[f"{label}/sd/{pooling}"] = scores.std().item()
                result.chosen[f"{label}/decay/{pooling}"] = decay
        return result

    def predictions(self, given: Features, counts: Tensor) -> tuple[float, Tensor]:
        """The decay that is best on validation, and what is said (draws, n) of test, from `counts` (classes,) images of
        each class; where a class has fewer, from all that it has."""
        mean, std = given.train.mean(0), given.train.std(0, correction=0).clamp_min(1e-6)
        fit, validation, test = ((part - mean) / std for part in (given.fit, given.validation, given.test))
        decays = sorted(self.decays, reverse=True)
        fitted = []
        for draw in range(self.draws):
            few = chosen(given.fit_labels, counts, draw)
            fitted.append(Softmax.fit(fit[few], given.fit_labels[few], given.classes, decays, standardise=False))
        on_validation = [
            sum(accuracy(of_draw[place].predict(validation), given.validation_labels) for of_draw in fitted)
            for place in range(len(decays))
        ]
        best = on_validation.index(max(on_validation))
        return decays[best], torch.stack([of_draw[best].predict(test) for of_draw in fitted])


def chosen(labels: Tensor, counts: Tensor, draw: int) -> Tensor:
    """The numbers of `counts` (classes,) images of each class, those that number `draw` puts first. A larger count
    keeps what a smaller one chose."""
    order = Draws(keys(torch.arange(len(labels), device=labels.device), draw, "lowshot")).uniform()
    of_class = [torch.nonzero(labels == number)[:, 0] for number in range(len(counts))]
    taken = zip(of_class, counts.tolist(), strict=True)
    return torch.cat([numbers[order[numbers].argsort()][:count] for numbers, count in taken])
