"""Intervals of means, of ranks over data sets, and of what a sample of test images leaves open.

Plain functions of numbers; definitions and references in docs/statistics.md. Differences between strategies are in
maskbench.analysis.mean_differences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 0.05  # 1 - CONFIDENCE, without its rounding
RESAMPLES = 2_000
MIN_SEEDS = 3  # seeds, below which nothing is tested: two have a t quantile of 12.7


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The estimate.
        low: Lower end of its interval; None where no interval can be given.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean and its t interval; none for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean)
    half = _t(len(values), confidence) * float(stats.sem(values))
    return Estimate(mean, mean - half, mean + half)


def _t(n: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, n - 1))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: they control the family-wise error rate."""
    order = np.argsort(p_values)
    adjusted, highest = np.empty(len(p_values)), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return [float(p) for p in adjusted]


def probability_of_improvement(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Estimate:
    """The chance that a run of ours beats one of theirs on the same data, averaged over data sets, ties half.

    One sequence of accuracies a data set. The interval: percentiles of a bootstrap that draws runs anew within each
    data set, of ours and of theirs (Agarwal et al., NeurIPS 2021, arXiv 2108.13264).
    """
    pairs = [(np.asarray(one), np.asarray(two)) for one, two in zip(ours, theirs, strict=True)]

    def chance(draws: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        per_data = [
            ((one[..., :, None] > two[..., None, :]) + 0.5 * (one[..., :, None] == two[..., None, :])).mean((-2, -1))
            for one, two in draws
        ]
        return np.mean(per_data, axis=0)

    generator = np.random.default_rng(0)
    drawn = [(_resample(one, generator), _resample(two, generator)) for one, two in pairs]
    return _percentile_interval(float(chance(pairs)), chance(drawn))


def interquartile_mean(runs: Sequence[Sequence[float]]) -> Estimate:
    """The mean of the middle half of all runs over all data sets, with a bootstrap stratified by data set (Agarwal et
    al., arXiv 2108.13264). One sequence of accuracies a data set."""

    def middle(values: np.ndarray) -> np.ndarray:
        return np.asarray(stats.trim_mean(values, 0.25, axis=-1))

    strata = [np.asarray(stratum) for stratum in runs]
    generator = np.random.default_rng(0)
    drawn = np.concatenate([_resample(stratum, generator) for stratum in strata], axis=-1)
    return _percentile_interval(float(middle(np.concatenate(strata))), middle(drawn))


def _resample(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(RESAMPLES, n) draws with replacement."""
    return values[generator.integers(len(values), size=(RESAMPLES, len(values)))]


def _percentile_interval(value: float, draws: np.ndarray) -> Estimate:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class SampleDifference:
    """The accuracy of one trained model minus that of another, on the same n images.

    Attributes:
        n: Images.
        mean: The difference, in [-1, 1].
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: Two-sided p value, not corrected.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float


def mcnemar_difference(ours: np.ndarray, theirs: np.ndarray) -> SampleDifference:
    """How much two trained models differ on all images of which the test set is a sample; nothing about other seeds.

    Args:
        ours: (N,) bool, True where our model is right.
        theirs: (N,) bool, the same for theirs, on the same images.

    Returns:
        The difference of accuracies over n = N images, with Wald's interval for paired proportions and the p value of
        McNemar's exact test.
    """
    n = len(ours)
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    mean = (only_ours - only_theirs) / n
    variance = (only_ours + only_theirs) / n - mean**2
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance / n)
    disagreements = only_ours + only_theirs
    p = float(stats.binomtest(only_ours, disagreements).pvalue) if disagreements else 1.0
    return SampleDifference(n, mean, mean - half, mean + half, p)
