"""Regular patterns: few masks, each drawn as often as the others, and the pools and draws of uniform masking."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices


def outcomes(hidden: Tensor) -> Counter[bytes]:
    return Counter(row.tobytes() for row in hidden.numpy())


def lattices(rows: int, cols: int) -> list[bytes]:
    """The four masks that show one and the same place of every 2 x 2."""
    places = itertools.product(range(2), range(2))
    return [
        bytes(not (row % 2 == down and col % 2 == across) for row in range(rows) for col in range(cols))
        for down, across in places
    ]


def checkerboards(rows: int, cols: int, unit: int) -> list[bytes]:
    return [
        bytes((row // unit + col // unit) % 2 == colour for row in range(rows) for col in range(cols))
        for colour in range(2)
    ]


def windows(mask: Tensor, grid: Grid) -> Tensor:
    """(B, N / 4, 4): the four places of every 2 x 2 window, cut out one by one."""
    image = mask.view(-1, grid.rows, grid.cols)
    corners = itertools.product(range(0, grid.rows, 2), range(0, grid.cols, 2))
    return torch.stack([image[:, row : row + 2, col : col + 2].flatten(1) for row, col in corners], 1)


def equally_likely(found: Counter[bytes], masks: list[bytes]) -> bool:
    assert set(found) <= set(masks), "a mask that the rule does not know"
    return stats.chisquare([found[mask] for mask in masks]).pvalue > 1e-4


@notices("flip", "share")
def grid_draws_one_of_four_masks_equally_often(lab: Lab) -> None:
    for grid in (TOKENS, Grid(6, 10, 1)):
        view = lab.view("grid", 4096, grid)
        assert view.hidden is not None
        assert equally_likely(outcomes(view.hidden), lattices(grid.rows, grid.cols))
        assert view.length == grid.size // 4


@notices("flip")
def grid_of_scope_batch_draws_once_a_batch(lab: Lab) -> None:
    batches = [outcomes(lab.hidden("grid", 4, Grid(4, 4, 1), scope="batch", step=step)) for step in range(400)]
    assert all(len(batch) == 1 for batch in batches)
    assert equally_likely(Counter(mask for batch in batches for mask in batch), lattices(4, 4))


# The complement of a checkerboard is one, and so is a checkerboard of single patches moved by a patch.
@notices("share")
def checkerboard_draws_one_of_two_complementary_masks_equally_often(lab: Lab) -> None:
    view = lab.view("checkerboard", 4096)
    assert view.hidden is not None
    assert equally_likely(outcomes(view.hidden), checkerboards(14, 14, 1))
    assert view.length == 98


@notices("shift", "share")
def checkerboards_have_cells_of_the_unit(lab: Lab) -> None:
    for grid, unit, length in ((Grid(8, 12, 1), 2, 48), (Grid(12, 8, 1), 4, 48), (Grid(6, 6, 1), 2, None)):
        view = lab.view("checkerboard", 1024, grid, unit=unit)
        assert view.hidden is not None
        assert equally_likely(outcomes(view.hidden), checkerboards(grid.rows, grid.cols, unit))
        assert view.length == length  # nine cells: five are hidden in one mask, four in the other


@notices("shift")
def checkerboard_of_scope_batch_draws_once_a_batch(lab: Lab) -> None:
    batches = [
        outcomes(lab.hidden("checkerboard", 4, Grid(4, 4, 1), unit=2, scope="batch", step=step)) for step in range(400)
    ]
    assert all(len(batch) == 1 for batch in batches)
    assert equally_likely(Counter(mask for batch in batches for mask in batch), checkerboards(4, 4, 2))


@notices("flip", "shift")
def every_window_keeps_exactly_one_patch_in_the_sequence(lab: Lab) -> None:
    for grid in (TOKENS, Grid(6, 10, 1)):
        for secondary, pool in itertools.product((0.0, 0.25), (True, False)):
            view = lab.view("uniform", 512, grid, secondary=secondary, pool=pool)
            assert view.present is not None
            assert (windows(view.present, grid).sum(-1) == 1).all()
            assert view.length == grid.size // 4


@notices("flip")
def of_49_kept_patches_36_are_shown_and_13_replaced_without_loss(lab: Lab) -> None:
    view = lab.view("uniform", 512)
    assert view.hidden is not None and view.replaced is not None and view.terms[0].weight is not None
    assert ((~view.hidden).sum(1) == 36).all()
    assert (view.replaced.sum(1) == 13).all()
    assert not (view.replaced & ~view.hidden).any()
    assert torch.equal(view.terms[0].weight, (view.hidden & ~view.replaced).float())
    assert (view.terms[0].weight.sum(1) == 147).all()


@notices("share")
def every_place_of_every_window_is_kept_equally_often(lab: Lab) -> None:
    for pool in (True, False):
        kept = windows(~lab.hidden("uniform", 4096, secondary=0.0, pool=pool), TOKENS).sum(0)
        pvalues = stats.chisquare(kept.numpy(), axis=1).pvalue
        assert pvalues.min() > 1e-4 / 49  # a chi-square for each of 49 windows


@notices("flip", "share")
def a_pool_of_100_makes_the_counts_of_places_hypergeometric(lab: Lab) -> None:
    # The pool for 49 windows is the smallest multiple of 4 from 98 on: 25 of each place, 49 of the 100 are used.
    counts = windows(~lab.hidden("uniform", 4096, secondary=0.0), TOKENS).sum(1)
    law = stats.hypergeom(100, 25, 49)
    assert float(law.var()) == pytest.approx(4.73, abs=0.01)
    for place in range(4):
        assert counts[:, place].max() <= 25
        assert fits(counts[:, place], law)


@notices("flip", "share")
def independent_draws_make_the_counts_of_places_binomial(lab: Lab) -> None:
    counts = windows(~lab.hidden("uniform", 4096, secondary=0.0, pool=False), TOKENS).sum(1)
    for place in range(4):
        assert fits(counts[:, place], stats.binom(49, 0.25))


def fits(counts: Tensor, law: stats.rv_discrete) -> bool:
    """Chi-square of counts about 12, tails pooled: more than 5 are expected in each bin of 4096."""
    low, high = 7, 18
    found = [int((counts == value).sum()) for value in range(low + 1, high)]
    expected = [float(law.pmf(value)) for value in range(low + 1, high)]
    found = [int((counts <= low).sum()), *found, int((counts >= high).sum())]
    expected = [float(law.cdf(low)), *expected, float(law.sf(high - 1))]
    return stats.chisquare(found, [len(counts) * share for share in expected]).pvalue > 1e-4


@notices("flip", "share")
def small_pools_are_shuffled_uniformly(lab: Lab) -> None:
    # Four windows: a pool of 8, two of each place. A sequence's probability counts the ordered ways to draw it.
    kept = windows(~lab.hidden("uniform", 16384, Grid(4, 4, 1), secondary=0.0), Grid(4, 4, 1)).int()
    assert (kept.sum(-1) == 1).all()
    drawn = Counter(tuple(row) for row in kept.argmax(-1).tolist())
    ways = {
        places: math.prod(math.perm(2, places.count(place)) for place in range(4))
        for places in itertools.product(range(4), repeat=4)
    }
    possible = [places for places, count in ways.items() if count]
    assert set(drawn) <= set(possible)
    expected = [16384 * ways[places] / math.perm(8, 4) for places in possible]
    assert stats.chisquare([drawn[places] for places in possible], expected).pvalue > 1e-4


@notices("flip", "share")
def all_subsets_of_the_kept_patches_are_equally_likely_to_be_replaced(lab: Lab) -> None:
    view = lab.view("uniform", 6000, Grid(4, 4, 1), secondary=0.5)
    assert view.replaced is not None
    found = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in windows(view.replaced, Grid(4, 4, 1)).any(-1))
    pairs = list(itertools.combinations(range(4), 2))
    assert set(found) <= set(pairs)
    assert stats.chisquare([found[pair] for pair in pairs]).pvalue > 1e-4


@notices("flip")
def how_many_are_replaced_truncates_what_is_shown(lab: Lab) -> None:
    for rows, cols, secondary, shown in [(14, 14, 0.25, 36), (14, 14, 0.5, 24), (8, 8, 0.25, 12), (10, 10, 0.1, 22)]:
        view = lab.view("uniform", 8, Grid(rows, cols, 1), secondary=secondary)
        assert view.hidden is not None
        assert ((~view.hidden).sum(1) == shown).all(), (rows, cols, secondary)


@notices("flip", "shift")
def matched_uniform_masking_drops_the_secondary_masking(lab: Lab) -> None:
    view = lab.view(REGISTRY.create("uniform").matched(0.75), 64)
    assert view.hidden is not None and view.replaced is None
    assert (windows(view.hidden, TOKENS).sum(-1) == 3).all()
    assert view.length == 49


test_holds, test_notices = invariants_of(__name__)


@pytest.mark.parametrize("name", ["grid", "uniform"])
def test_odd_grids_are_refused(name: str) -> None:
    for grid in (Grid(7, 8, 1), Grid(8, 7, 1)):
        with pytest.raises(ValueError, match="2x2"):
            Lab().view(name, 2, grid)


def test_cells_that_do_not_divide_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="cells of 4"):
        Lab().view("checkerboard", 2, unit=4)


@pytest.mark.parametrize(("name", "only"), [("grid", 0.75), ("uniform", 0.75), ("checkerboard", 0.5)])
def test_other_ratios_than_the_patterns_are_refused(name: str, only: float) -> None:
    hidden = Lab().hidden(REGISTRY.create(name).matched(only), 8)
    assert np.unique(hidden.sum(1)).tolist() == [round(196 * only)]
    with pytest.raises(UsageError, match=f"{only:.0%}"):
        REGISTRY.create(name).matched(0.6)
