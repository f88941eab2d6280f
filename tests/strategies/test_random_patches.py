"""Random masking: uniform over all subsets of the right size."""

import itertools

import pytest
from scipy import stats

from maskbench.core.grid import Grid
from tests.helpers.invariants import Lab, invariants_of, notices


@notices("flip")
def counts_truncate_what_is_kept(lab: Lab) -> None:
    for rows, cols, ratio, count in [
        (14, 14, 0.75, 147), (14, 14, 0.6, 118), (14, 14, 0.7, 138), (14, 14, 0.8, 157), (14, 14, 0.9, 177),
        (8, 8, 0.6, 39), (8, 8, 0.75, 48), (6, 10, 0.75, 45),
    ]:  # fmt: skip
        hidden = lab.hidden("random", 8, Grid(rows, cols, 1), ratio=ratio)
        assert (hidden.sum(1) == count).all(), (rows, cols, ratio)


@notices("flip", "share")
def every_patch_is_hidden_equally_often(lab: Lab) -> None:
    hidden = lab.hidden("random", 4096).double()
    # Binomial(4096, 3/4) for each of 196 patches; 5 standard deviations have probability 6e-7 each.
    sd = (0.75 * 0.25 / 4096) ** 0.5
    assert (hidden.mean(0) - 0.75).abs().max() < 5 * sd


@notices("share")
def pairs_are_as_independent_as_a_fixed_count_allows(lab: Lab) -> None:
    hidden = lab.hidden("random", 8192).double()
    both = hidden.T @ hidden / 8192
    expected = 147 * 146 / (196 * 195)
    apart = ~both.new_ones(196, 196).triu(0).bool()
    sd = (expected * (1 - expected) / 8192) ** 0.5  # 19,110 pairs: 6 standard deviations have probability 4e-5 in all
    assert (both[apart] - expected).abs().max() < 6 * sd


@notices("share")
def all_subsets_are_equally_likely(lab: Lab) -> None:
    hidden = lab.hidden("random", 8000, Grid(2, 3, 1), ratio=0.5)
    seen = [tuple(row.nonzero()[:, 0].tolist()) for row in hidden]
    subsets = list(itertools.combinations(range(6), 3))
    assert stats.chisquare([seen.count(subset) for subset in subsets]).pvalue > 1e-4


test_holds, test_notices = invariants_of(__name__)


def test_bad_ratios_are_refused() -> None:
    from maskbench.strategy import REGISTRY

    for ratio in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="ratio"):
            REGISTRY.create("random", ratio=ratio)
