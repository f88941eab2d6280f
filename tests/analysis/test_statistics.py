"""Intervals, corrections and bootstraps against simulated runs of known truth, plain computations, and scipy."""

import itertools
import math

import numpy as np
import pytest
import scikit_posthocs as posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from maskbench.analysis import statistics
from maskbench.analysis.statistics import (
    holm_adjust,
    interquartile_mean,
    mcnemar_difference,
    mean_interval,
    probability_of_improvement,
)

EXPERIMENTS = 2_000


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_the_truth(n: int) -> None:
    """95 % nominal: over 2,000 experiments a standard error of 0.5 points, so 93 to 97 % is four of them."""
    runs = np.random.default_rng(7).normal(0.51, 0.007, (EXPERIMENTS, n))
    found = [mean_interval(row.tolist()) for row in runs]
    assert 0.93 <= np.mean([each.low <= 0.51 <= each.high for each in found]) <= 0.97
    assert mean_interval([0.5]).low is None


def test_intervals_and_correction_are_those_of_other_libraries() -> None:
    generator = np.random.default_rng(3)
    for row in generator.normal(0, 1, (10, 6)):
        interval = stats.t.interval(0.95, 5, row.mean(), stats.sem(row))
        assert mean_interval(row.tolist()) == statistics.Estimate(
            pytest.approx(row.mean()), *map(pytest.approx, interval)
        )
    samples = [generator.normal(effect, 1, 5).tolist() for effect in generator.normal(0, 1, 7)]
    unpaired = [stats.ttest_ind(one, two).pvalue for one, two in itertools.combinations(samples, 2)]
    corrected = posthocs.posthoc_ttest(samples, p_adjust="holm").to_numpy()[np.triu_indices(7, 1)]
    assert statistics.holm_adjust(unpaired) == pytest.approx(corrected.tolist())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_holm_by_its_definition(p_values: list[float]) -> None:
    """A hypothesis is rejected at a level iff all with smaller p are, and (m - rank) * p is within the level."""
    adjusted = holm_adjust(p_values)
    order = sorted(range(len(p_values)), key=lambda place: (p_values[place], adjusted[place]))
    for level in (0.01, 0.05, 0.3, 0.9):
        rejected = set()
        for rank, place in enumerate(order):
            if (len(order) - rank) * p_values[place] > level:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(adjusted) if p <= level} == rejected


def test_probability_of_improvement_by_counting() -> None:
    ours, theirs = [[0.5, 0.7, 0.6], [0.9, 0.8]], [[0.6, 0.4], [0.85, 0.8, 0.1]]
    shares = []
    for one, two in zip(ours, theirs, strict=True):
        wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x in one for y in two]
        shares.append(sum(wins) / len(wins))
    found = probability_of_improvement(ours, theirs)
    assert found.value == pytest.approx(sum(shares) / 2)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert probability_of_improvement([[0.9, 0.8]], [[0.1, 0.2]]) == statistics.Estimate(1.0, 1.0, 1.0)


def test_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    runs = [[0.1, 0.5, 0.4, 0.9], [0.2, 0.45, 0.6, 0.99]]
    found = interquartile_mean(runs)
    assert found.value == pytest.approx((0.4 + 0.45 + 0.5 + 0.6) / 4)
    assert found.low < found.value < found.high
    assert interquartile_mean(runs) == found, "the same every time"


def test_bootstrap_intervals_cover_the_truth() -> None:
    """Two strategies whose true chance is known: Phi(effect / (sd * sqrt 2)). Percentile intervals are narrow at ten
    runs, so 88 % is asked of 300 experiments, where the nominal 95 % has a standard error of 1.3 points."""
    generator, hits = np.random.default_rng(1), 0
    truth = stats.norm.cdf(0.5 / math.sqrt(2))
    for _ in range(300):
        found = probability_of_improvement([generator.normal(0.5, 1, 10)], [generator.normal(0, 1, 10)])
        hits += found.low <= truth <= found.high
    assert hits / 300 >= 0.88


def test_the_test_sample_is_another_question() -> None:
    generator = np.random.default_rng(2)
    ours, theirs = generator.random((2, 4_000)) < np.array([[0.6], [0.55]])
    found = mcnemar_difference(ours, theirs)
    assert found.mean == pytest.approx(ours.mean() - theirs.mean())
    draws = generator.integers(4_000, size=(3_000, 4_000))
    differences = (ours[draws].mean(1) - theirs[draws].mean(1)).tolist()
    low, high = np.quantile(differences, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.002)  # a paired bootstrap agrees
    both = stats.binomtest(int((ours & ~theirs).sum()), int((ours ^ theirs).sum())).pvalue
    assert found.p == pytest.approx(both)
    assert mcnemar_difference(ours, ours).p == 1.0
