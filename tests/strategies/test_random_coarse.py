"""SimMIM's cells: whole ones, as many as the ratio rounds up to, uniformly chosen."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices


def cells(mask: Tensor, grid: Grid, unit: int) -> Tensor:
    """(B, cells, unit * unit): the patches of every cell, cut out one by one."""
    image = mask.view(-1, grid.rows, grid.cols)
    corners = itertools.product(range(0, grid.rows, unit), range(0, grid.cols, unit))
    return torch.stack([image[:, row : row + unit, col : col + unit].flatten(1) for row, col in corners], 1)


@notices("flip")
def counts_round_whole_cells_up(lab: Lab) -> None:
    assert (lab.hidden("random-coarse", 8).sum(1) == 120).all()  # SimMIM at 224 / 32 / 16
    assert (lab.hidden("random-coarse", 8, Grid(8, 8, 1)).sum(1) == 40).all()
    for rows, cols, unit, ratio in [(12, 12, 2, "0.6"), (8, 12, 4, "0.6"), (12, 6, 3, "0.5"), (10, 10, 2, "0.75"),
                                    (9, 6, 3, "0.1"), (14, 14, 1, "0.6"), (10, 4, 2, "0.9")]:  # fmt: skip
        number = rows * cols // unit**2
        expected = math.ceil(number * Fraction(ratio)) * unit**2
        view = lab.view("random-coarse", 8, Grid(rows, cols, 1), unit=unit, ratio=float(ratio))
        assert view.hidden is not None
        assert (view.hidden.sum(1) == expected).all(), (rows, cols, unit, ratio)
        assert view.length == rows * cols - expected


@notices("shift")
def every_aligned_cell_is_hidden_or_shown_as_a_whole(lab: Lab) -> None:
    for grid, unit in ((TOKENS, 2), (Grid(8, 12, 1), 4), (Grid(6, 9, 1), 3)):
        inside = cells(lab.hidden("random-coarse", 256, grid, unit=unit), grid, unit).sum(-1)
        assert ((inside == 0) | (inside == unit**2)).all()


@notices("flip", "share")
def every_cell_is_hidden_equally_often(lab: Lab) -> None:
    hidden = cells(lab.hidden("random-coarse", 4096), TOKENS, 2)[..., 0].double()
    # Binomial(4096, 30/49) for each of 49 cells; 5 standard deviations have probability 6e-7 each.
    sd = (30 * 19 / 49**2 / 4096) ** 0.5
    assert (hidden.mean(0) - 30 / 49).abs().max() < 5 * sd


@notices("share")
def all_subsets_of_cells_are_equally_likely(lab: Lab) -> None:
    grid = Grid(4, 6, 1)
    hidden = cells(lab.hidden("random-coarse", 8000, grid, ratio=0.5), grid, 2)
    found = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in hidden[..., 0])
    subsets = list(itertools.combinations(range(6), 3))
    assert set(found) <= set(subsets)
    assert stats.chisquare([found[subset] for subset in subsets]).pvalue > 1e-4


@notices("flip", "shift")
def exact_counts_patches_and_cuts_one_cell_at_most(lab: Lab) -> None:
    for ratio, count in ((0.6, 118), (0.75, 147), (0.5, 98), (0.01, 2)):
        view = lab.view("random-coarse", 512, ratio=ratio, exact=True)
        assert view.hidden is not None
        assert (view.hidden.sum(1) == count).all()
        assert view.length == 196 - count
        inside = cells(view.hidden, TOKENS, 2).sum(-1)
        cut = (inside > 0) & (inside < 4)
        assert (cut.sum(1) == (count % 4 > 0)).all()
        assert (inside[cut] == count % 4).all()


@notices("flip", "share")
def exact_hides_every_patch_equally_often(lab: Lab) -> None:
    hidden = lab.hidden("random-coarse", 4096, ratio=0.6, exact=True).double()
    sd = (118 * 78 / 196**2 / 4096) ** 0.5  # binomial; 196 patches beyond 5 standard deviations: 1e-4 in all
    assert (hidden.mean(0) - 118 / 196).abs().max() < 5 * sd


@notices("shift", "share")
def exact_cuts_any_cell_in_any_way_equally_often(lab: Lab) -> None:
    grid = Grid(4, 6, 1)
    hidden = cells(lab.hidden("random-coarse", 8000, grid, ratio=0.25, exact=True), grid, 2)  # a cell and two patches
    inside = hidden.sum(-1)
    assert ((inside == 2).sum(1) == 1).all()
    cut = (inside == 2).int().argmax(1)
    patches = hidden[torch.arange(8000), cut]
    found = Counter((int(cell), *patch.nonzero()[:, 0].tolist()) for cell, patch in zip(cut, patches, strict=True))
    ways = [(cell, *pair) for cell in range(6) for pair in itertools.combinations(range(4), 2)]
    assert stats.chisquare([found[way] for way in ways]).pvalue > 1e-4


@notices("flip", "shift")
def matched_hides_exactly_three_quarters_in_cells(lab: Lab) -> None:
    view = lab.view(REGISTRY.create("random-coarse").matched(0.75), 64)
    assert view.hidden is not None and view.length == 49
    inside = cells(view.hidden, TOKENS, 2).sum(-1)
    assert ((inside == 4).sum(1) == 36).all() and ((inside == 3).sum(1) == 1).all()


test_holds, test_notices = invariants_of(__name__)


def test_cells_that_do_not_divide_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="cells of 3"):
        Lab().view("random-coarse", 2, unit=3)
