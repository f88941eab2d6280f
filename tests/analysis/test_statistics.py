"""Statistics against simulated runs of known truth, plain computations, and scipy."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs as posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from maskbench.analysis import statistics
from maskbench.analysis.statistics import (
    compact_letter_display,
    holm_adjust,
    interquartile_mean,
    mcnemar_difference,
    mean_interval,
    minimum_detectable_effect,
    paired_difference,
    probability_of_improvement,
)

EXPERIMENTS = 2_000


def seeds(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


def experiments(count: int, strategies: int, n: int, effects: tuple[float, ...] = ()) -> np.ndarray:
    """(count, strategies, n) accuracies: a share of the noise is the seed's own, as with paired runs."""
    generator = np.random.default_rng(7)
    own = generator.normal(0, 0.004, (count, strategies, n))
    shared = generator.normal(0, 0.006, (count, 1, n))
    means = np.array([0.5 + effect for effect in (*effects, *[0.0] * (strategies - len(effects)))])
    return means[:, None] + shared + own


def share(hits: int, count: int) -> tuple[float, float]:
    return hits / count, math.sqrt(0.05 * 0.95 / count)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_the_truth(n: int) -> None:
    """95 % nominal: over 2,000 experiments a standard error of 0.5 points, so 93 to 97 % is four of them."""
    runs = experiments(EXPERIMENTS, 2, n, (0.01,))
    means = [mean_interval(row[0].tolist()) for row in runs]
    assert 0.93 <= np.mean([found.low <= 0.51 <= found.high for found in means]) <= 0.97
    found = [paired_difference(seeds(row[0]), seeds(row[1])) for row in runs]
    assert 0.93 <= np.mean([each.low <= 0.01 <= each.high for each in found]) <= 0.97
    widths = [np.median([each.high - each.low for each in kind]) for kind in (found, means)]
    assert widths[0] < widths[1], "pairing takes the seed's own noise away"


@pytest.mark.parametrize(("strategies", "n"), [(4, 3), (6, 5), (10, 5)])
def test_false_alarms_after_correction(strategies: int, n: int) -> None:
    """No strategy differs from the baseline; at most 6.5 % of 2,000 experiments may claim that one does."""
    alarms = 0
    for row in experiments(EXPERIMENTS, strategies, n):
        found = [paired_difference(seeds(row[place]), seeds(row[0])) for place in range(1, strategies)]
        alarms += min(holm_adjust([each.p for each in found])) < 0.05
    assert alarms / EXPERIMENTS <= 0.065


def test_letters_of_equals_are_rarely_different() -> None:
    alarms = sum(len(set(compact_letter_display({str(p): seeds(v) for p, v in enumerate(row)}).values())) > 1
                 for row in experiments(EXPERIMENTS // 2, 4, 5))  # fmt: skip
    assert alarms / (EXPERIMENTS // 2) <= 0.065


@pytest.mark.parametrize("n", [3, 5, 8])
def test_power_is_as_predicted(n: int) -> None:
    """A true difference as large as the minimum detectable effect is found in 80 % of 2,000 experiments;
    the standard error of that is 0.9 points, so 3.6 points are four."""
    effect = minimum_detectable_effect(0.004 * math.sqrt(2), n)
    runs = experiments(EXPERIMENTS, 2, n, (effect,))
    found = [paired_difference(seeds(row[0]), seeds(row[1])).p < 0.05 for row in runs]
    assert abs(np.mean(found) - 0.8) < 0.036


def test_paired_differences_are_scipys() -> None:
    for row in experiments(20, 2, 6, (0.003,)):
        ours = paired_difference(seeds(row[0]), seeds(row[1]))
        theirs = stats.ttest_rel(row[0], row[1])
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
        interval = theirs.confidence_interval(0.95)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        interval = stats.t.interval(0.95, 5, row[0].mean(), stats.sem(row[0]))
        assert mean_interval(row[0].tolist()) == statistics.Estimate(
            pytest.approx(row[0].mean()), *map(pytest.approx, interval)
        )


def test_only_common_seeds_are_paired() -> None:
    found = paired_difference({0: 0.5, 1: 0.6, 2: 0.7, 9: 0.1}, {0: 0.4, 1: 0.5, 2: 0.6, 4: 0.9})
    assert found is not None and found.n == 3 and found.mean == pytest.approx(0.1)
    assert paired_difference({0: 0.5}, {1: 0.5}) is None


def test_with_too_few_seeds_nothing_is_claimed() -> None:
    two = paired_difference({0: 0.5, 1: 0.6}, {0: 0.1, 1: 0.2})
    assert two is not None and (two.p, two.low, two.minimum_detectable) == (None, None, None)
    assert mean_interval([0.5]).low is None
    assert compact_letter_display({"a": {0: 0.5, 1: 0.6}, "b": {0: 0.1, 1: 0.2}}) == {}


def test_the_same_difference_in_every_seed_is_no_division_by_zero() -> None:
    values = {0: 0.25, 1: 0.5, 2: 0.75}
    assert paired_difference(values, values).p == 1.0  # type: ignore[union-attr]
    shifted = {seed: value + 0.25 for seed, value in values.items()}
    assert paired_difference(shifted, values).p == 0.0  # type: ignore[union-attr]


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


def test_letters_say_exactly_which_pairs_differ() -> None:
    """Whoever shares a letter was not told apart; whoever was told apart shares none."""
    generator = np.random.default_rng(3)
    seen = set()
    for _ in range(200):
        means = generator.choice([0.5, 0.505, 0.51, 0.53], 5)
        values = {name: seeds(mean + generator.normal(0, 0.004, 5)) for name, mean in zip("vwxyz", means, strict=True)}
        pairs = list(itertools.combinations(values, 2))
        adjusted = holm_adjust([stats.ttest_rel([*values[a].values()], [*values[b].values()]).pvalue for a, b in pairs])
        given_letters = compact_letter_display(values)
        for (one, two), p in zip(pairs, adjusted, strict=True):
            assert bool(set(given_letters[one]) & set(given_letters[two])) == (p >= 0.05)
        best = max(values, key=lambda name: np.mean([*values[name].values()]))
        assert "a" in given_letters[best]
        seen.add(max(map(len, given_letters.values())))
    assert seen >= {1, 2}, "overlapping groups occurred"


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


def test_letters_and_correction_agree_with_scikit_posthocs() -> None:
    """They share a letter here if and only if they do there, and Holm's p values are the same."""
    generator = np.random.default_rng(3)
    for spread in (0.3, 1.0, 3.0):
        effects = generator.normal(0, spread, 7)
        values = {f"s{n}": dict(enumerate(effects[n] + generator.normal(0, 1, 5))) for n in range(7)}
        ours = statistics.compact_letter_display(values)
        pairs = list(itertools.combinations(values, 2))
        raw = [stats.ttest_rel(list(values[one].values()), list(values[two].values())).pvalue for one, two in pairs]
        matrix = pd.DataFrame(1.0, index=list(values), columns=list(values))
        for (one, two), p in zip(pairs, statistics.holm_adjust(raw), strict=True):
            matrix.loc[one, two] = matrix.loc[two, one] = p
        theirs = posthocs.compact_letter_display(matrix)
        for one, two in pairs:
            assert bool(set(ours[one]) & set(ours[two])) == bool(set(theirs[one]) & set(theirs[two]) - {" "})
        samples = [list(runs.values()) for runs in values.values()]
        unpaired = [stats.ttest_ind(one, two).pvalue for one, two in itertools.combinations(samples, 2)]
        corrected = posthocs.posthoc_ttest(samples, p_adjust="holm").to_numpy()[np.triu_indices(7, 1)]
        assert statistics.holm_adjust(unpaired) == pytest.approx(corrected.tolist())
