"""Showing blocks: the published rules counted out place by place, and written as plain loops."""

import itertools
import math
import random
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices

PUBLISHED_GRIDS = ((14, 14), (8, 8), (8, 16), (4, 4))


def square(centre: int, rows: int, cols: int, side: int) -> set[int]:
    """Tokens of a square around a centre, cut at the border; an even side reaches further up and left."""
    row, col = divmod(centre, cols)
    near = itertools.product(*(range(at - side // 2, at - side // 2 + side) for at in (row, col)))
    return {r * cols + c for r, c in near if 0 <= r < rows and 0 <= c < cols}


@cache
def by_rule(images: int, rows: int, cols: int, centres: int, side: int, visible: int) -> Tensor:
    """(B, N) bool, True = seen: squares around centres, then single patches added or removed at random."""
    draw = random.Random(0)
    masks = np.zeros((images, rows * cols), bool)
    for mask in masks:
        near = [square(draw.randrange(rows * cols), rows, cols, side) for _ in range(centres)]
        seen = set[int]().union(*near)
        if len(seen) > visible:
            chosen = draw.sample(sorted(seen), visible)
        else:
            chosen = [*seen, *draw.sample(sorted(set(range(rows * cols)) - seen), visible - len(seen))]
        mask[chosen] = True
    return torch.from_numpy(masks)


def same_coverage(found: Tensor, expected: Tensor) -> bool:
    """Each patch as often seen in both samples: two binomials differ by 5 standard deviations, each 6e-7."""
    share = (found.double().mean(0) + expected.double().mean(0)) / 2
    sd = (share * (1 - share) * (1 / len(found) + 1 / len(expected))).sqrt()
    return bool(((found.double().mean(0) - expected.double().mean(0)).abs() <= 5 * sd).all())


def whole_squares(seen: Tensor, side: int = 3, rows: int = 14, cols: int = 14) -> Tensor:
    """(B,) windows of side x side patches that are seen as a whole."""
    windows = seen.view(-1, rows, cols).unfold(1, side, 1).unfold(2, side, 1)
    return windows.flatten(3).all(-1).sum((1, 2))


def same_mean(found: Tensor, expected: Tensor) -> bool:
    """Welch's test at 5 standard errors, probability 6e-7."""
    a, b = found.double(), expected.double()
    return bool((a.mean() - b.mean()).abs() <= 5 * (a.var() / len(a) + b.var() / len(b)).sqrt())


@notices("flip")
def data2vec_shows_exactly_39_patches(lab: Lab) -> None:
    for rows, cols, ratio, visible in ((14, 14, 0.8, 39), (14, 14, 0.75, 49), (8, 8, 0.75, 16), (6, 10, 0.9, 6)):
        view = lab.view("inverse-block", 256, Grid(rows, cols, 1), ratio=ratio)
        assert view.hidden is not None
        assert ((~view.hidden).sum(1) == visible).all() and view.length == visible


@notices("flip", "shift", "share")
def data2vec_shows_each_patch_as_often_as_the_rule(lab: Lab) -> None:
    # 196 * (.2 + .07) / 9 = 5.88: five squares; at .75 6.97: six. Without adjustment 4.36: four.
    seen = ~lab.hidden("inverse-block", 4096)
    assert same_coverage(seen, by_rule(4000, 14, 14, 5, 3, 39))
    assert same_coverage(~lab.hidden("inverse-block", 2048, ratio=0.75), by_rule(2000, 14, 14, 6, 3, 49))


@notices("flip", "shift", "share")
def data2vec_shows_as_many_whole_squares_as_the_rule(lab: Lab) -> None:
    # A square of 5 takes int(52.9 / 25) = 2 centres, one of a single patch 52, of which some coincide.
    for adjust, side, centres in ((0.07, 3, 5), (0.0, 3, 4), (0.07, 5, 2), (0.07, 1, 52)):
        seen = ~lab.hidden("inverse-block", 2048, adjust=adjust, side=side)
        reference = by_rule(2000, 14, 14, centres, side, 39)
        assert same_mean(whole_squares(seen), whole_squares(reference))
        assert same_mean(whole_squares(seen, 2), whole_squares(reference, 2))
        assert same_coverage(seen, reference)


def centres_of(rows: int, cols: int, visible: int, side: int) -> int:
    """int(N * (share seen + adjust) / side^2) in exact fractions, for `adjust` = 0.07."""
    return int((Fraction(visible, rows * cols) + Fraction(7, 100)) * rows * cols / side**2)


@notices("flip", "shift", "share")
def squares_of_every_grid_and_side_are_as_in_the_rule(lab: Lab) -> None:
    assert [centres_of(14, 14, 49, side) for side in (2, 3, 4)] == [15, 6, 3]
    assert [centres_of(4, 4, 4, side) for side in (2, 3, 4)] == [1, 0, 0]
    for (rows, cols), side in itertools.product(PUBLISHED_GRIDS, (2, 3, 4)):
        visible = rows * cols // 4
        seen = ~lab.hidden("inverse-block", 2048, Grid(rows, cols, 1), ratio=0.75, side=side)
        reference = by_rule(2000, rows, cols, centres_of(rows, cols, visible, side), side, visible)
        assert same_coverage(seen, reference), (rows, cols, side)
        for window in (2, 3):
            found, expected = (whole_squares(masks, window, rows, cols) for masks in (seen, reference))
            assert same_mean(found, expected) or found.any() == expected.any() == 0, (rows, cols, side)


def follow(seen: Tensor, law: dict[bytes, float]) -> bool:
    """Chi-square of whole masks; of those expected fewer than 5 times, the equally likely ones are pooled."""
    found = Counter(mask.tobytes() for mask in seen.numpy())
    assert set(found) <= set(law), "a mask that the rule does not know"
    cells: dict[bytes | str, list[bytes]] = defaultdict(list)
    for mask, share in law.items():
        cells[mask if len(seen) * share >= 5 else f"{share:.9f}"].append(mask)
    counts = [sum(found[mask] for mask in masks) for masks in cells.values()]
    expected = [len(seen) * sum(law[mask] for mask in masks) for masks in cells.values()]
    return stats.chisquare(counts, expected).pvalue > 1e-4


@cache
def law_of_one_square(visible: int) -> dict[bytes, float]:
    """Every mask of a 4 x 4 grid with one square of 3 x 3, and its probability."""
    law: dict[bytes, float] = {}
    for centre in range(16):
        near = square(centre, 4, 4, 3)
        far = set(range(16)) - near
        fewer = [set(kept) for kept in itertools.combinations(near, visible)]
        sets = fewer or [near.union(added) for added in itertools.combinations(far, visible - len(near))]
        for seen in sets:
            mask = bytes(token in seen for token in range(16))
            law[mask] = law.get(mask, 0.0) + 1 / 16 / len(sets)
    return law


@notices("flip", "share")
def one_square_is_thinned_and_topped_up_uniformly(lab: Lab) -> None:
    for visible in (4, 5):  # 16 * (.25 + .5) / 9 = 1.3, so one square
        seen = ~lab.hidden("inverse-block", 16384, Grid(4, 4, 1), ratio=1 - visible / 16, adjust=0.5)
        assert follow(seen, law_of_one_square(visible))


def rolled(visible: int, width: int, grid: Grid) -> list[bytes]:
    """The masks of a block cut in raster order to `visible`, rolled to every place of the torus."""
    block = np.zeros((grid.rows, grid.cols), bool)
    for place in range(visible):
        block[place // width, place % width] = True
    moves = itertools.product(range(grid.rows), range(grid.cols))
    return [np.roll(block, move, (0, 1)).tobytes() for move in moves]


def widths(visible: int, aspect: float, grid: Grid) -> dict[int, float]:
    """Width and probability, the logarithm of the aspect uniform where both sides fit the grid."""
    steps = 20_000
    low = max(math.log(1 / aspect), math.log(visible / grid.cols**2))
    high = min(math.log(aspect), math.log(grid.rows**2 / visible))
    found = Counter[int]()
    for u in (np.arange(steps) + 0.5) / steps:
        drawn = math.exp(low + (high - low) * u)
        found[math.ceil(math.sqrt(visible / drawn) - 1e-9)] += 1
    return {width: count / steps for width, count in found.items()}


@cache
def law_of_rolled(visible: int, aspect: float, grid: Grid) -> dict[bytes, float]:
    """By the width alone, since rows below the cut add nothing to a block."""
    law: dict[bytes, float] = {}
    for width, share in widths(visible, aspect, grid).items():
        for mask in rolled(visible, width, grid):
            law[mask] = law.get(mask, 0.0) + share / grid.size
    return law


@notices("flip", "share")
def capi_shows_one_block_cut_in_raster_order_and_rolled_uniformly(lab: Lab) -> None:
    seen = ~lab.hidden("inverse-block-roll", 8192)
    assert (seen.sum(1) == 68).all()  # 128 hidden, by the common count
    assert follow(seen, law_of_rolled(68, 2.0, TOKENS))


@notices("flip", "share")
def capi_follows_its_ratio_and_aspect(lab: Lab) -> None:
    for grid, ratio, aspect, visible in (
        (TOKENS, 0.75, 2.0, 49), (TOKENS, 0.65, 1.0, 68), (TOKENS, 0.75, 4.0, 49), (Grid(8, 8, 1), 0.5, 3.0, 32),
        (Grid(6, 12, 1), 0.5, 2.0, 36),
    ):  # fmt: skip
        view = lab.view("inverse-block-roll", 4096, grid, ratio=ratio, aspect=aspect)
        assert view.hidden is not None and view.length == visible
        assert follow(~view.hidden, law_of_rolled(visible, aspect, grid))


@cache
def boxes_by_rule(images: int, rows: int, cols: int, visible: int) -> Counter[tuple[int, int]]:
    """How often a block has so many rows and columns once it is cut, drawn one by one."""
    draw, found = random.Random(0), Counter[tuple[int, int]]()
    for _ in range(images):
        least, most = max(0.5, visible / cols**2), min(2.0, rows**2 / visible)
        aspect = math.exp(draw.uniform(math.log(least), math.log(most)))
        height, width = (math.ceil(math.sqrt(side) - 1e-9) for side in (visible * aspect, visible / aspect))
        top, left = draw.randint(0, rows - height), draw.randint(0, cols - width)
        inside = [(row, col) for row in range(top, top + height) for col in range(left, left + width)][:visible]
        found[len({row for row, _ in inside}), len({col for _, col in inside})] += 1
    return found


@notices("flip", "share")
def capi_draws_aspects_uniformly_within_what_fits(lab: Lab) -> None:
    for rows, cols in PUBLISHED_GRIDS:
        visible = int(rows * cols * 0.35)
        seen = ~lab.hidden("inverse-block-roll", 4096, Grid(rows, cols, 1))
        image = seen.view(-1, rows, cols)
        # Rolling around the torus changes neither number.
        boxes = zip(image.any(2).sum(1).tolist(), image.any(1).sum(1).tolist(), strict=True)
        found, reference = Counter(boxes), boxes_by_rule(20_000, rows, cols, visible)
        assert set(found) <= set(reference), (rows, cols)
        table = [[counts[size] for size in reference] for counts in (found, reference)]
        assert len(reference) == 1 or stats.chi2_contingency(table).pvalue > 1e-4, (rows, cols)


@notices("flip", "share")
def capi_shows_every_patch_equally_often(lab: Lab) -> None:
    seen = (~lab.hidden("inverse-block-roll", 4096)).double()
    sd = (68 * 128 / 196**2 / 4096) ** 0.5  # binomial; 196 patches beyond 5 standard deviations: 1e-4 in all
    assert (seen.mean(0) - 68 / 196).abs().max() < 5 * sd


@notices("flip")
def matched_hides_exactly_three_quarters(lab: Lab) -> None:
    for name in ("inverse-block", "inverse-block-roll"):
        view = lab.view(REGISTRY.create(name).matched(0.75), 64)
        assert view.hidden is not None and view.length == 49
        assert (view.hidden.sum(1) == 147).all()


test_holds, test_notices = invariants_of(__name__)


def test_blocks_that_fill_a_thin_grid_fit() -> None:
    for rows, cols in ((1, 9), (9, 1), (2, 10)):
        for ratio in (0.1, 0.5, 0.9):
            grid = Grid(rows, cols, 1)
            seen = (~Lab().hidden("inverse-block-roll", 64, grid, ratio=ratio)).sum(1)
            assert (seen == grid.size - grid.count(ratio)).all()


def test_counts_that_are_whole_numbers_are_not_rounded_down() -> None:
    # 1 - 0.8 is 0.19999999999999996: a product of floats is 4.999..., which would show 4 patches of 25.
    for side in (5, 10, 15, 20):
        assert ((~Lab().hidden("inverse-block", 8, Grid(side, side, 1))).sum(1) == side**2 // 5).all()
    # 100 * (.2 + .07) / 9 is exactly 3 squares.
    ten = Grid(10, 10, 1)
    found = whole_squares(~Lab().hidden("inverse-block", 2048, ten), 3, 10, 10)
    three, two = (whole_squares(by_rule(2000, 10, 10, centres, 3, 20), 3, 10, 10) for centres in (3, 2))
    assert same_mean(found, three) and not same_mean(found, two)


def test_bad_sides_and_aspects_are_refused() -> None:
    with pytest.raises(ValueError, match="side"):
        REGISTRY.create("inverse-block", side=0)
    with pytest.raises(ValueError, match="aspect"):
        REGISTRY.create("inverse-block-roll", aspect=0.5)
