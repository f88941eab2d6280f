"""What a table claims, held by simulated experiments whose truth is known."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from maskbench.analysis.mean_differences import (
    PAIRED_FROM,
    Difference,
    compare_means,
    describe_power,
    detectable_difference,
    has_enough_seeds,
    seed_correlation,
)
from maskbench.analysis.verdicts import Verdict, judge

CASES = [*itertools.product((0.0, 0.7), (1, 4), (3, 5, 10), (3, 5, 11))]  # correlation, spread, seeds, strategies
SD = 0.01


def spreads(strategies: int, spread: int) -> np.ndarray:
    """Standard deviations: every second strategy varies `spread` times as much."""
    return SD * np.where(np.arange(strategies) % 2 == 0, 1, spread)


def experiments(count: int, n: int, sds: np.ndarray, correlation: float) -> np.ndarray:
    """(count, strategies, n) accuracies around 0.5: every seed moves all strategies alike by its share."""
    generator = np.random.default_rng(7)
    own = generator.normal(size=(count, len(sds), n))
    shared = generator.normal(size=(count, 1, n))
    return 0.5 + sds[:, None] * (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)


def seeds(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


def judged(runs: np.ndarray, *, floor: bool) -> Iterator[dict[str, Verdict]]:
    """Verdicts on each experiment; with `floor` the last strategy is the untrained encoder."""
    for row in runs:
        scores = {f"s{place}": seeds(own) for place, own in enumerate(row[:-1] if floor else row)}
        yield judge(scores, "s0", seeds(row[-1]) if floor else None).by_label


def contradictions(verdicts: dict[str, Verdict]) -> bool:
    """Whether two columns of a row, or two rows, say what cannot both hold."""
    for verdict in verdicts.values():
        for each in (verdict.from_baseline, verdict.from_untrained):
            if each is not None and each.p is not None and (each.p < 0.05) != (each.is_better or each.is_worse):
                return True
        base = verdict.from_baseline
        if verdict.is_best and ((base is not None and base.is_worse) or verdict.is_above_untrained is False):
            return True
    beaten = any(each.from_baseline is not None and each.from_baseline.is_better for each in verdicts.values())
    return beaten and verdicts["s0"].is_best


def false_claims(count: int, correlation: float, spread: int, n: int, strategies: int) -> tuple[float, float, float]:
    """Shares of experiments without any difference in which some row differs from the baseline, from the untrained
    encoder, or is not among the best."""
    base = floor = best = 0
    for verdicts in judged(experiments(count, n, spreads(strategies + 1, spread), correlation), floor=True):
        assert not contradictions(verdicts)
        found = [*verdicts.values()]
        base += any(v.from_baseline is not None and (v.from_baseline.p or 1) < 0.05 for v in found)
        floor += any(v.from_untrained is not None and (v.from_untrained.p or 1) < 0.05 for v in found)
    for verdicts in judged(experiments(count, n, spreads(strategies, spread), correlation), floor=False):
        assert not contradictions(verdicts)
        best += len({verdict.is_best for verdict in verdicts.values()}) == 2
    return base / count, floor / count, best / count


def power(count: int, correlation: float, spread: int, n: int, strategies: int) -> float:
    """How often a difference of the detectable size is found, where the spread is known."""
    sds = spreads(2, spread)
    squared = (sds**2 / n).tolist()
    if n >= PAIRED_FROM:
        squared = [sum(squared) - 2 * correlation * math.prod(sds.tolist()) / n]
    effect = detectable_difference(Difference(n, n, 0.0, squared_errors=tuple(squared)), strategies - 1, correlation)
    assert effect is not None
    found = 0
    for ours, theirs in experiments(count, n, sds, correlation):
        found += compare_means(seeds(ours + effect.value), seeds(theirs), strategies - 1).is_better
    return found / count


@pytest.mark.parametrize("case", [CASES[0], CASES[10], CASES[13], CASES[31]], ids=str)
def test_few_claims_are_false(case: tuple[float, int, int, int]) -> None:
    """At most 6.5 % in all cases, which `test_claims_of_2000_experiments` shows; of 300 experiments the standard error
    of 5 % is 1.3 points, so 10 % is four of them."""
    assert max(false_claims(300, *case)) <= 0.10


@pytest.mark.simulation
@pytest.mark.parametrize("case", CASES, ids=str)
def test_claims_of_2000_experiments(case: tuple[float, int, int, int]) -> None:
    """The error of every family is at most 6.5 %, no row contradicts itself, power is as printed within 5 points."""
    assert max(false_claims(2_000, *case)) <= 0.065
    if has_enough_seeds(case[2], case[3]):
        assert abs(power(2_000, *case) - 0.8) <= 0.05


def test_differences_are_scipys() -> None:
    generator = np.random.default_rng(0)
    for n, paired in ((3, False), (6, False), (PAIRED_FROM, True)):
        ours, theirs = generator.normal(0.5, 0.01, n), generator.normal(0.49, 0.03, n)
        for count in (1, 4):
            found = compare_means(seeds(ours), seeds(theirs), count)
            test = stats.ttest_rel(ours, theirs) if paired else stats.ttest_ind(ours, theirs, equal_var=False)
            interval = test.confidence_interval(1 - 0.05 / count)
            assert found.p == pytest.approx(min(1, count * test.pvalue), rel=1e-9)
            assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
            assert found.paired == paired


def test_other_seeds_are_never_paired() -> None:
    ours = {seed: 0.5 + seed / 100 for seed in range(12)}
    theirs = {seed: 0.5 + seed / 90 for seed in range(1, 13)}
    found = compare_means(ours, theirs)
    assert not found.paired
    assert found.p == pytest.approx(stats.ttest_ind([*ours.values()], [*theirs.values()], equal_var=False).pvalue)


def test_the_same_in_every_seed_is_no_division_by_zero() -> None:
    for n in (3, PAIRED_FROM):
        same = dict.fromkeys(range(n), 0.25)
        assert compare_means(same, same).p == 1.0
        assert compare_means(dict.fromkeys(range(n), 0.5), same).p == 0.0


def test_the_detectable_difference_by_its_definition() -> None:
    """With the paired test the noncentral t distribution puts 80 % of what it gives beyond the critical value; with
    many seeds Welch's test is the same with twice the seeds."""
    for n, count in ((10, 4), (12, 1)):
        found = detectable_difference(Difference(n, n, 0.0, squared_errors=(1e-4,)), count)
        assert found is not None and found.low is not None and found.high is not None
        critical = stats.t.isf(0.025 / count, n - 1)
        assert stats.nct.sf(critical, n - 1, found.value / 0.01) == pytest.approx(0.8, abs=1e-6)
        low, high = stats.chi2.interval(0.95, n - 1)
        ends = [found.value * math.sqrt((n - 1) / end) for end in (high, low)]
        assert [found.low, found.high] == pytest.approx(ends)
    found = detectable_difference(Difference(200, 200, 0.0, squared_errors=(5e-5, 5e-5)), 1)
    assert found is not None
    assert stats.nct.sf(stats.t.isf(0.025, 398), 398, found.value / 0.01) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("case", [CASES[0], CASES[5]], ids=str)
def test_power_is_as_printed(case: tuple[float, int, int, int]) -> None:
    """The standard error of 80 % in 1,000 experiments is 1.3 points; 5 are promised."""
    assert abs(power(1_000, *case) - 0.8) <= 0.05


def test_a_plan_says_what_it_will_find() -> None:
    assert describe_power(1, 2).startswith("1 seed cannot tell 2 strategies apart: nothing will be tested")
    assert describe_power(3, 4).startswith("3 seeds cannot tell 4 strategies apart")
    for n, strategies in ((5, 4), (10, 3)):
        said = float(describe_power(n, strategies).partition("if it is ")[2].split(" times")[0])
        runs = experiments(1_000, n, SD * np.ones(2), 0.0)
        found = [compare_means(seeds(one + said * SD), seeds(two), strategies - 1).is_better for one, two in runs]
        assert abs(np.mean(found) - 0.8) <= 0.05


def test_correlation_of_seeds_is_measured() -> None:
    for correlation in (0.0, 0.7):
        runs = experiments(300, 10, spreads(4, 1), correlation)
        found = [seed_correlation([seeds(own) for own in row]) for row in runs]
        assert np.mean([each for each in found if each is not None]) == pytest.approx(correlation, abs=0.05)
    assert seed_correlation([{0: 0.1, 1: 0.2}, {0: 0.2, 1: 0.3}]) is None


def test_three_seeds_test_three_strategies_at_most() -> None:
    three = {"s0": {0: 0.1, 1: 0.11, 2: 0.12}, "s1": {0: 0.5, 1: 0.51, 2: 0.52}, "s2": {0: 0.3, 1: 0.31, 2: 0.32}}
    found = judge(three, "s0", None).by_label["s1"].from_baseline
    assert found is not None and found.is_better
    four = judge({**three, "s3": three["s2"]}, "s0", None)
    assert not four.tested and all(not verdict.is_best for verdict in four.by_label.values())
    untested = four.by_label["s1"].from_baseline
    assert untested is not None and untested.mean == pytest.approx(0.4) and untested.p is None


def test_survivors_are_never_judged() -> None:
    """Runs that diverged are missing for a reason: the mean of the others is shown and not tested."""
    scores = {name: {seed: level + seed / 1000 for seed in range(5)} for name, level in
              (("s0", 0.5), ("s1", 0.9), ("s2", 0.1))}  # fmt: skip
    del scores["s1"][4]
    found = judge(scores, "s0", None, survivors={"s1"}).by_label
    assert found["s1"].from_baseline is not None and found["s1"].from_baseline.p is None and not found["s1"].is_best
    assert found["s2"].from_baseline is not None and found["s2"].from_baseline.is_worse and found["s0"].is_best
    baseline = judge(scores, "s0", None, survivors={"s0"}).by_label
    assert all(each.from_baseline is None or each.from_baseline.p is None for each in baseline.values())


def test_no_row_is_best_that_training_has_not_helped() -> None:
    scores = {name: {seed: 0.5 + seed / 1000 for seed in range(5)} for name in ("s0", "s1")}
    high, low = ({seed: level + seed / 1000 for seed in range(5)} for level in (0.6, 0.4))
    assert not any(verdict.is_best for verdict in judge(scores, "s0", high).by_label.values())
    assert all(verdict.is_best for verdict in judge(scores, "s0", low).by_label.values())
