"""Do two strategies differ in the mean over seeds? Tests and intervals that share one correction, and their power.

Accuracies of one seed share the first weights, the order of images and the crops. Whether that makes them alike is
measured (`seed_correlation`) and not assumed: below PAIRED_FROM seeds Welch's test is used, which holds at any
correlation of zero or more; from there on the paired test, which then costs little where there is none and gains much
where there is. The rule depends on the number of seeds alone, so that the data cannot choose their test.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from maskbench.analysis.statistics import ALPHA, CONFIDENCE, MIN_SEEDS, Estimate

PAIRED_FROM = 10  # seeds: pairing widens an interval by 4 % at most where seeds explain nothing
POWER = 0.8
DRAWS = 4_000
MOST_AT_MIN_SEEDS = 3  # strategies, that MIN_SEEDS seeds can tell apart at all
BySeed = Mapping[int, float]  # seed -> accuracy in [0, 1]


@dataclass(frozen=True)
class Difference:
    """The mean of one strategy minus that of another, and whether it may be chance.

    Attributes:
        n: Seeds of the first.
        n_other: Seeds of the second.
        mean: Difference of the means, in [-1, 1].
        low: Lower end of its interval, which holds the truth with CONFIDENCE in all comparisons of its family at once.
            None where nothing is tested.
        high: Upper end.
        p: Two-sided p value after the correction for all comparisons of the family: below 1 - CONFIDENCE exactly where
            the interval excludes 0.
        squared_errors: Of both means by Welch's test, of the mean difference alone by the paired one; empty where
            nothing is tested.
    """

    n: int
    n_other: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    squared_errors: tuple[float, ...] = ()

    @property
    def paired(self) -> bool:
        """The test was the paired one."""
        return len(self.squared_errors) == 1

    @property
    def is_better(self) -> bool:
        """The first is better by more than chance explains."""
        return self.low is not None and self.low > 0

    @property
    def is_worse(self) -> bool:
        """The first is worse by more than chance explains."""
        return self.high is not None and self.high < 0


def has_enough_seeds(n: int, strategies: int) -> bool:
    """Whether `n` seeds of each of so many strategies are tested at all."""
    return n > MIN_SEEDS or (n == MIN_SEEDS and strategies <= MOST_AT_MIN_SEEDS)


def describe_power(seeds: int, strategies: int) -> str:
    """What so many seeds of so many strategies will be able to tell apart, before anything was run."""
    if not has_enough_seeds(seeds, strategies):
        counted = f"{seeds} seed{'s' * (seeds > 1)}"
        return f"{counted} cannot tell {strategies} strategies apart: nothing will be tested; take 5 seeds or more"
    one = (2 / seeds,) if seeds >= PAIRED_FROM else (1 / seeds, 1 / seeds)  # of strategies that vary by 1 over seeds
    effect = detectable_difference(Difference(seeds, seeds, 0.0, squared_errors=one), strategies - 1)
    assert effect is not None
    return (
        f"{seeds} seeds of {strategies} strategies find a true difference from the baseline, with a chance of 80 %, if "
        f"it is {effect.value:.1f} times as large as the standard deviation over seeds"
    )


def compare_means(
    ours: BySeed, theirs: BySeed, comparisons: int = 1, alpha: float = ALPHA, *, paired: bool | None = None
) -> Difference:
    """Ours minus theirs, tested as one of `comparisons` that together err in a share `alpha` of cases (Bonferroni).

    Both need two seeds. paired: True where both are the same seeds and known to be alike, such as a run and its
    repetition; by default the number of seeds decides.
    """
    if paired is None:
        paired = ours.keys() == theirs.keys() and len(ours) >= PAIRED_FROM
    squared_errors: tuple[float, ...]
    if paired:
        differences = np.array([value - theirs[seed] for seed, value in ours.items()])
        mean, squared_errors = float(differences.mean()), (float(differences.var(ddof=1)) / len(ours),)
        freedom = len(ours) - 1.0
    else:
        sides = [np.array([*side.values()]) for side in (ours, theirs)]
        mean = float(sides[0].mean() - sides[1].mean())
        squared_errors = tuple(float(side.var(ddof=1)) / len(side) for side in sides)
        freedom = float(_welch_freedom(np.array(squared_errors), np.array([len(ours), len(theirs)])))
    error = math.sqrt(sum(squared_errors))
    half = error * float(special.stdtrit(freedom, 1 - alpha / comparisons / 2))
    statistic = abs(mean) / error if error > 0 else math.inf if mean else 0.0  # no spread at all: surely, or not at all
    p = min(1.0, comparisons * 2 * float(special.stdtr(freedom, -statistic)))
    return Difference(len(ours), len(theirs), mean, mean - half, mean + half, p, squared_errors)


def untested_difference(ours: BySeed, theirs: BySeed) -> Difference:
    """The difference of the means, where nothing may be claimed."""
    return Difference(len(ours), len(theirs), float(np.mean([*ours.values()])) - float(np.mean([*theirs.values()])))


def _welch_freedom(squared_errors: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Satterthwaite's degrees of freedom, of squared standard errors (2, ...) of means over n (2,) seeds."""
    shares = squared_errors / np.maximum(squared_errors.sum(0), 1e-300)
    inverse = (shares**2 / (n - 1).reshape(2, *[1] * (shares.ndim - 1))).sum(0)
    return np.asarray(1 / np.maximum(inverse, 1 / n.sum()))  # at most as many as there are seeds: without any spread


def seed_correlation(values: Sequence[BySeed]) -> float | None:
    """How alike the accuracies of one seed are: the covariance of two strategies over seeds, summed over all pairs of
    strategies and divided by the product of their standard deviations, summed likewise. In [-1, 1]; None where no two
    have MIN_SEEDS seeds in common, or none varies."""
    covariance = scale = 0.0
    for one, two in itertools.combinations(values, 2):
        seeds = sorted(one.keys() & two.keys())
        if len(seeds) >= MIN_SEEDS:
            both = np.cov([one[seed] for seed in seeds], [two[seed] for seed in seeds])
            covariance += float(both[0, 1])
            scale += math.sqrt(float(both[0, 0] * both[1, 1]))
    return covariance / scale if scale > 0 else None


def detectable_difference(
    difference: Difference, comparisons: int, correlation: float = 0.0, power: float = POWER
) -> Estimate | None:
    """The true difference that a test like this one finds, with the right sign, with the chance `power`.

    After the correction for `comparisons`, with the spread that was observed. Its interval says how uncertain so few
    seeds leave that spread (chi-square, CONFIDENCE). Where Welch's test meets seeds that are alike, it is more careful
    than it needs to be; `correlation` (of `seed_correlation`) says how much. None where nothing is tested.
    """
    errors = np.array(difference.squared_errors)
    if not errors.sum() > 0:
        return None
    n = np.array([difference.n, difference.n_other])
    tail = ALPHA / comparisons / 2
    if difference.paired:
        freedom = difference.n - 1.0
        value = math.sqrt(errors[0]) * float(special.nctdtrinc(freedom, 1 - power, special.stdtrit(freedom, 1 - tail)))
    else:
        freedom = float(_welch_freedom(errors, n))
        value = _welch_detectable(errors, n, tail, min(max(correlation, 0.0), 0.95), power)
    shares = ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2)
    factors = [math.sqrt(freedom / float(stats.chi2.ppf(share, freedom))) for share in shares]
    return Estimate(value, *(value * factor for factor in factors))


def _welch_detectable(errors: np.ndarray, n: np.ndarray, tail: float, correlation: float, power: float) -> float:
    """By the mean power over what DRAWS experiments estimate as their spread: at three seeds the degrees of freedom
    themselves are so uncertain that the noncentral t distribution promises 80 % where 66 % are found."""
    generator = np.random.default_rng(0)
    shared, *own = generator.standard_normal((3, DRAWS, n.max()))
    runs = [math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * each for each in own]
    spread = [each[:, :count].var(axis=1, ddof=1) for each, count in zip(runs, n, strict=True)]
    estimated = errors[:, None] * np.stack(spread)
    needed = special.stdtrit(_welch_freedom(estimated, n), 1 - tail) * np.sqrt(estimated.sum(0))
    noise = math.sqrt(errors.sum() - 2 * correlation * math.sqrt(errors.prod()))

    def power_of(effect: float) -> float:
        return float(special.ndtr((effect - needed) / noise).mean())

    high = 10 * math.sqrt(errors.sum())
    while power_of(high) < power:
        high *= 2
    return float(optimize.brentq(lambda effect: power_of(effect) - power, 0.0, high))
