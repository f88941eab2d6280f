"""Is a difference real? Confidence intervals, paired t tests, multiple comparisons, and statistical power.

Plain functions of numbers; definitions and references in docs/statistics.md. Accuracies of one seed are paired: the
same seed gives every strategy the same first weights, order of images and crops.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8
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


@dataclass(frozen=True)
class Difference:
    """One strategy's accuracy minus another's, on the same seeds or the same images.

    Attributes:
        n: Seeds that both have; images, for `mcnemar_difference`.
        mean: Mean difference.
        low: Lower end of its confidence interval; None below MIN_SEEDS seeds.
        high: Upper end.
        p: Two-sided p value, not corrected for multiple comparisons; None below MIN_SEEDS seeds.
        minimum_detectable: The true difference that a test of this many pairs, with the standard deviation observed,
            detects with a power of POWER; None below MIN_SEEDS seeds.
    """

    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    minimum_detectable: float | None = None


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean and its t interval; none for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean)
    half = _t(len(values), confidence) * float(stats.sem(values))
    return Estimate(mean, mean - half, mean + half)


def paired_difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference | None:
    """Ours minus theirs over common seeds, with a paired t interval and test; None without a common seed."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    n, mean = len(seeds), float(differences.mean())
    if n < MIN_SEEDS:
        return Difference(n, mean)
    error = float(stats.sem(differences))
    half = _t(n, confidence) * error
    statistic = abs(mean) / error if error > 0 else math.inf if mean else 0.0  # no spread at all: surely, or not at all
    p = float(2 * stats.t.sf(statistic, n - 1))
    effect = minimum_detectable_effect(error * math.sqrt(n), n, 1 - confidence)
    return Difference(n, mean, mean - half, mean + half, p, effect)


def _t(n: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, n - 1))


def minimum_detectable_effect(sd: float, n: int, alpha: float = 1 - CONFIDENCE, power: float = POWER) -> float:
    """The true mean of `n` paired differences of standard deviation `sd` that a two-sided t test at `alpha` finds, with
    the right sign, with the chance `power`, from the noncentral t distribution."""
    return sd * _standardised_effect(n, alpha, power)


@functools.cache
def _standardised_effect(n: int, alpha: float, power: float) -> float:
    """The minimum detectable effect in standard deviations (Cohen's d of paired differences)."""
    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def power_of(effect: float) -> float:
        return float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n)))

    high = 1.0
    while power_of(high) < power:
        high *= 1.5
    return float(optimize.brentq(lambda effect: power_of(effect) - power, 0.0, high))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: they control the family-wise error rate."""
    order = np.argsort(p_values)
    adjusted, highest = np.empty(len(p_values)), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return [float(p) for p in adjusted]


def compact_letter_display(values: Mapping[str, Mapping[int, float]], alpha: float = 1 - CONFIDENCE) -> dict[str, str]:
    """Letters such that labels without a common letter differ significantly: all paired t tests, Holm-corrected.

    Letters follow the means, the best first, by Piepho's (2004) insert-and-absorb algorithm. Empty where a pair has
    fewer than MIN_SEEDS seeds in common: then nothing can be said.
    """
    names = sorted(values, key=lambda name: (-float(np.mean(list(values[name].values()))), name))
    pairs = list(itertools.combinations(names, 2))
    differences = [paired_difference(values[one], values[two]) for one, two in pairs]
    tested = [difference.p for difference in differences if difference is not None and difference.p is not None]
    if len(tested) < len(pairs):
        return {}
    columns = [set(names)]
    for pair, p in zip(pairs, holm_adjust(tested), strict=True):
        if p < alpha:
            columns = _absorb([part for column in columns for part in _split(column, *pair)])
    columns.sort(key=lambda column: sorted(names.index(name) for name in column))
    return {name: "".join(_letter(place) for place, column in enumerate(columns) if name in column) for name in names}


def share_a_letter(one: str, two: str) -> bool:
    """Whether two strings of a compact letter display have a letter in common: no significant difference."""
    first, second = (set(re.findall("[a-z]'*", letters)) for letters in (one, two))
    return bool(first & second)


def _split(column: set[str], one: str, two: str) -> list[set[str]]:
    return [column - {one}, column - {two}] if {one, two} <= column else [column]


def _absorb(columns: list[set[str]]) -> list[set[str]]:
    kept: list[set[str]] = []
    for column in sorted(columns, key=len, reverse=True):
        if not any(column <= other for other in kept):
            kept.append(column)
    return kept


def _letter(place: int) -> str:
    return chr(ord("a") + place % 26) + "'" * (place // 26)


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


def mcnemar_difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
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
    return Difference(n, mean, mean - half, mean + half, p)
