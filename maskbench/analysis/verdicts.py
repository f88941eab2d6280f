"""What a table may claim about its rows: different from the baseline, above an untrained encoder, among the best.

Each of the three has one family of comparisons, from which interval, p value and mark of a row all follow, so that they
cannot contradict each other.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from maskbench.analysis.mean_differences import (
    BySeed,
    Difference,
    compare_means,
    has_enough_seeds,
    untested_difference,
)

BEST_ALPHA = 0.01  # error of "worse than the best", beside that of the comparisons with the baseline


@dataclass(frozen=True)
class Verdict:
    """What is claimed about one strategy.

    Attributes:
        from_baseline: Difference from the baseline; its family are all strategies that are tested. None for the
            baseline, and without one.
        from_untrained: Difference from the untrained encoder; a family of its own. None without that control.
        is_best: It may be the best: no other is better, and it is above the untrained encoder.
    """

    from_baseline: Difference | None = None
    from_untrained: Difference | None = None
    is_best: bool = False

    @property
    def is_above_untrained(self) -> bool | None:
        """Whether training helped at all; None where that was not tested."""
        if self.from_untrained is None or self.from_untrained.p is None:
            return None
        return self.from_untrained.is_better


@dataclass(frozen=True)
class Verdicts:
    """What is claimed about the strategies of one table.

    Attributes:
        by_label: The verdict on each strategy.
        comparisons: Number of comparisons in the family with the baseline.
        tested: The strategies that were tested at all.
    """

    by_label: dict[str, Verdict]
    comparisons: int
    tested: frozenset[str]


def judge(
    scores: Mapping[str, BySeed],
    baseline: str | None,
    untrained: BySeed | None,
    survivors: Collection[str] = (),
) -> Verdicts:
    """Test every strategy against the baseline, the untrained encoder and the best.

    Args:
        scores: Accuracies in [0, 1] of each strategy by seed.
        baseline: One of the strategies, or None.
        untrained: Accuracies of the untrained encoder; None without that control.
        survivors: Strategies of which some runs failed or diverged. Those that did not are no fair sample, so nothing
            is tested with them.
    """
    tested = {
        name: own for name, own in scores.items() if name not in survivors and has_enough_seeds(len(own), len(scores))
    }
    others = {name: own for name, own in scores.items() if name != baseline}
    base = _compare_with(scores.get(baseline or ""), others, tested if baseline in tested else {})
    floor_is_tested = untrained is not None and has_enough_seeds(len(untrained), len(scores))
    floor = _compare_with(untrained, scores, tested if floor_is_tested else {})
    best = _find_best(tested, baseline, base)
    by_label = {}
    for name in scores:
        verdict = Verdict(base.get(name), floor.get(name))
        by_label[name] = replace(verdict, is_best=name in best and verdict.is_above_untrained is not False)
    comparisons = sum(each.p is not None for each in base.values())
    return Verdicts(by_label, comparisons, frozenset(tested))


def _compare_with(
    reference: BySeed | None, scores: Mapping[str, BySeed], tested: Mapping[str, BySeed]
) -> dict[str, Difference]:
    """Every strategy minus one reference, corrected over those that are tested; of the others the mean alone."""
    if reference is None:
        return {}
    family = scores.keys() & tested.keys()
    return {
        name: compare_means(own, reference, len(family)) if name in family else untested_difference(own, reference)
        for name, own in scores.items()
    }


def _find_best(tested: Mapping[str, BySeed], baseline: str | None, base: Mapping[str, Difference]) -> set[str]:
    """The strategies that may be the best: neither worse than the one of the highest mean, nor on the wrong side of a
    difference from the baseline. Empty where there are not two to compare.

    This is the comparison with the best of Hsu (1981), with Bonferroni over all pairs in place of a common variance.
    """
    if len(tested) < 2:
        return set()
    top = max(tested, key=lambda name: (float(np.mean([*tested[name].values()])), name))
    pairs = len(tested) * (len(tested) - 1) // 2
    gaps = {name: compare_means(own, tested[top], pairs, BEST_ALPHA) for name, own in tested.items() if name != top}
    worse = {name for name, gap in gaps.items() if gap.high is not None and gap.high < 0}
    worse |= {name for name, difference in base.items() if difference.is_worse}
    if any(difference.is_better for difference in base.values()):
        worse.add(baseline or "")
    return set(tested) - worse
