"""I-JEPA's blocks: sizes once a batch, places for each image, the last row and column left out."""

import itertools
import math
import random
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.view import View
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices

WIDE = Grid(8, 16, 1)  # the large block has several places in it
Size = tuple[int, int]


def shorter(area: int, aspect: float, grid: Grid) -> Size:
    """Height and width of a block, both cut to less than the grid's."""
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(height, grid.rows - 1), min(width, grid.cols - 1)


@cache
def sizes_of_targets(rows: int, cols: int) -> dict[Size, float]:
    """Size and probability: one number gives the area, .15 to .2 of the grid, and the aspect, .75 to 1.5."""
    steps = 20_000
    grid, found = Grid(rows, cols, 1), Counter[Size]()
    for u in (np.arange(steps) + 0.5) / steps:
        found[shorter(int(grid.size * (0.15 + 0.05 * u)), 0.75 + 0.75 * u, grid)] += 1
    return {size: count / steps for size, count in found.items()}


@cache
def sizes_of_the_large_block(rows: int, cols: int) -> dict[Size, float]:
    steps = 20_000
    grid, found = Grid(rows, cols, 1), Counter[Size]()
    for u in (np.arange(steps) + 0.5) / steps:
        found[shorter(int(grid.size * (0.85 + 0.15 * u)), 1, grid)] += 1
    return {size: count / steps for size, count in found.items()}


def box(mask: Tensor, grid: Grid) -> tuple[int, int, int, int]:
    """Top, left, height and width of the smallest rectangle around a mask (N,)."""
    rows, cols = mask.view(grid.rows, grid.cols).numpy().nonzero()
    assert len(rows), "nothing is left"
    return rows.min(), cols.min(), rows.max() - rows.min() + 1, cols.max() - cols.min() + 1


def filled(top: int, left: int, height: int, width: int, grid: Grid) -> Tensor:
    mask = torch.zeros(grid.rows, grid.cols, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask.flatten()


def block(mask: Tensor, grid: Grid) -> tuple[int, int, int, int]:
    """The box of a mask (N,) that is a rectangle."""
    found = box(mask, grid)
    assert torch.equal(filled(*found, grid), mask), "not a rectangle"
    return found


def parts(view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Seen, to be recovered, thrown away: each patch is one of the three, and only what is recovered is weighed."""
    assert view.hidden is not None and view.thrown is not None and view.recovered is not None
    seen, target, thrown = ~view.hidden, view.recovered, view.thrown
    assert (seen.int() + target.int() + thrown.int() == 1).all()
    assert view.terms[0].weight is not None and torch.equal(view.terms[0].weight, target.float())
    return seen, target, thrown


def follow(found: Counter[Size], law: dict[Size, float]) -> bool:
    assert set(found) <= set(law), "a size that the rule does not know"
    expected = [found.total() * share for share in law.values()]
    return len(law) == 1 or stats.chisquare([found[size] for size in law], expected).pvalue > 1e-4


@notices("flip", "shift")
def sizes_of_targets_follow_one_number_a_batch(lab: Lab) -> None:
    for grid in (TOKENS, WIDE):
        found = Counter[Size]()
        for step in range(400):
            _, target, _ = parts(lab.view("multi-block", 3, grid, targets=1, seed=step, step=step))
            places = [block(mask, grid) for mask in target]
            assert all(top + height < grid.rows and left + width < grid.cols for top, left, height, width in places)
            (size,) = {(height, width) for _, _, height, width in places}
            found[size] += 1
        assert follow(found, sizes_of_targets(grid.rows, grid.cols))
    assert set(sizes_of_targets(14, 14)) == {(5, 6), (6, 5), (6, 6), (7, 5), (8, 5)}  # as published


@notices("flip", "shift", "share")
def places_of_targets_are_equally_likely_and_leave_out_the_last_row_and_column(lab: Lab) -> None:
    for step, edge in itertools.product(range(2), (False, True)):
        _, target, _ = parts(lab.view("multi-block", 2048, targets=1, step=step, edge=edge))
        places = Counter(block(mask, TOKENS) for mask in target)
        (height, width) = next(iter(places))[2:]
        tops, lefts = range(14 - height + edge), range(14 - width + edge)
        possible = [(top, left, height, width) for top, left in itertools.product(tops, lefts)]
        assert set(places) <= set(possible)
        assert stats.chisquare([places[place] for place in possible]).pvalue > 1e-4


@notices("flip", "shift")
def the_large_block_is_all_but_the_last_row_and_column(lab: Lab) -> None:
    inside = filled(0, 0, 13, 13, TOKENS)
    for step in range(40):
        seen, target, thrown = parts(lab.view("multi-block", 16, step=step))
        assert (thrown == ~inside).all()
        assert (seen == (inside & ~target)).all()


@notices("flip", "shift", "share")
def the_large_block_is_placed_for_each_image_where_it_has_room(lab: Lab) -> None:
    sizes = Counter[Size]()
    for step in range(100):
        seen, target, _ = parts(lab.view("multi-block", 16, WIDE, targets=1, step=step))
        # Targets are at most 6 x 5 here, so that they never cover a whole side of the large block of 7 x 10 or more.
        boxes = [box(mask, WIDE) for mask in seen]
        for mask, around, goal in zip(seen, boxes, target, strict=True):
            assert torch.equal(mask, filled(*around, WIDE) & ~goal)
        assert len({around[2:] for around in boxes}) == 1
        sizes[boxes[0][2:]] += 1
    assert follow(sizes, sizes_of_the_large_block(8, 16))
    seen, _, _ = parts(lab.view("multi-block", 1024, WIDE, targets=1))
    lefts = Counter(box(mask, WIDE) for mask in seen)
    width = next(iter(lefts))[3]
    possible = [(0, left, 7, width) for left in range(16 - width)]
    assert set(lefts) <= set(possible)
    assert stats.chisquare([lefts[place] for place in possible]).pvalue > 1e-4


@notices("flip", "share")
def edge_lets_the_large_block_reach_the_last_row_and_column(lab: Lab) -> None:
    seen, target, _ = parts(lab.view("multi-block", 1024, targets=1, edge=True))
    found = Counter(box(mask, TOKENS) for mask in seen)
    corners = [(top, left, 13, 13) for top, left in itertools.product(range(2), repeat=2)]
    assert set(found) <= set(corners)
    assert stats.chisquare([found[corner] for corner in corners]).pvalue > 1e-4
    for mask, goal in zip(seen[:64], target[:64], strict=True):
        assert torch.equal(mask, filled(*box(mask, TOKENS), TOKENS) & ~goal)


def covered_once(size: Size) -> Tensor:
    """(196,) probability that one block of this size, at a place that leaves out the last row and column, covers."""
    places = list(itertools.product(range(14 - size[0]), range(14 - size[1])))
    return torch.stack([filled(top, left, *size, TOKENS).double() for top, left in places]).mean(0)


@notices("flip", "shift", "share")
def four_targets_are_placed_independently(lab: Lab) -> None:
    for step in range(3):
        _, one, _ = parts(lab.view("multi-block", 4, targets=1, step=step))
        _, target, _ = parts(lab.view("multi-block", 4096, step=step))
        expected = 1 - (1 - covered_once(block(one[0], TOKENS)[2:])) ** 4
        sd = (expected * (1 - expected) / 4096).sqrt()
        assert ((target.double().mean(0) - expected).abs() <= 5 * sd).all()  # binomials; 196 patches: 1e-4 in all


@notices("flip", "shift", "share")
def unions_of_two_targets_follow_the_law_of_independent_places(lab: Lab) -> None:
    grid = Grid(5, 6, 1)
    _, one, _ = parts(lab.view("multi-block", 4, grid, targets=1))
    height, width = block(one[0], grid)[2:]
    places = [filled(*at, height, width, grid) for at in itertools.product(range(5 - height), range(6 - width))]
    law = Counter((one | two).numpy().tobytes() for one, two in itertools.product(places, repeat=2))
    _, target, _ = parts(lab.view("multi-block", 4096, grid, targets=2))
    found = Counter(mask.tobytes() for mask in target.numpy())
    assert set(found) <= set(law)
    expected = [4096 * ways / law.total() for ways in law.values()]
    assert stats.chisquare([found[mask] for mask in law], expected).pvalue > 1e-4


@cache
def split_by_rule(images: int, rows: int, cols: int, step: int) -> tuple[Tensor, Tensor]:
    """(B, N) bool each, seen and to be recovered: one block placed after another, until enough is seen."""
    grid, chance, least = Grid(rows, cols, 1), random.Random(step), min(10, int(rows * cols * 10 / 196))
    context = Context(grid, torch.arange(1), seed=0, epoch=0, step=step)
    small, large = context.uniform(2, scope="batch")[0].tolist()  # what the whole batch shares
    target_size = shorter(int(rows * cols * (0.15 + 0.05 * small)), 0.75 + 0.75 * small, grid)
    whole_size = shorter(int(rows * cols * (0.85 + 0.15 * large)), 1, grid)

    def place(height: int, width: int) -> set[int]:
        top, left = chance.randrange(rows - height), chance.randrange(cols - width)
        return {row * cols + col for row in range(top, top + height) for col in range(left, left + width)}

    seen, target = np.zeros((2, images, rows * cols), bool)
    for shown, recovered in zip(seen, target, strict=True):
        targets, tries = [place(*target_size) for _ in range(4)], 0
        while True:
            left = place(*whole_size).difference(*targets[: 4 - tries // 20])
            if len(left) > least:
                break
            tries += 1
        shown[list(left)] = True
        recovered[list(set().union(*targets) - left)] = True
    return torch.from_numpy(seen), torch.from_numpy(target)


@notices("flip", "shift", "share")
def images_that_show_too_little_are_drawn_again(lab: Lab) -> None:
    for (rows, cols), step in itertools.product(((14, 14), (8, 8), (8, 16), (4, 4), (4, 16)), range(2)):
        seen, target, _ = parts(lab.view("multi-block", 2048, Grid(rows, cols, 1), step=step))
        expected = split_by_rule(2000, rows, cols, step)
        assert (seen.sum(1) > min(10, rows * cols * 10 // 196)).all()
        for found, reference in zip((seen, target), expected, strict=True):
            share = (found.double().mean(0) + reference.double().mean(0)) / 2
            sd = (share * (1 - share) * (1 / 2048 + 1 / 2000)).sqrt()  # two binomials; each beyond 5: 6e-7
            difference = found.double().mean(0) - reference.double().mean(0)
            assert (difference.abs() <= 5 * sd).all(), (rows, cols, step)
            counts = [masks.sum(1).bincount(minlength=rows * cols) for masks in (found, reference)]
            table = np.stack([count.numpy() for count in counts])
            often = table[:, table.sum(0) >= 20]
            assert often.shape[1] < 2 or stats.chi2_contingency(often).pvalue > 1e-5, (rows, cols, step)


@notices("flip")
def targets_cover_88_patches_and_81_stay_visible_on_average(lab: Lab) -> None:
    law = sizes_of_targets(14, 14)
    expected = sum(share * float((1 - (1 - covered_once(size)) ** 4).sum()) for size, share in law.items())
    assert abs(expected - 88) < 1 and abs(169 - expected - 81) < 1  # the published figures, themselves simulated
    means = torch.stack(
        [parts(lab.view("multi-block", 8, seed=step, step=step))[1].sum(1).double().mean() for step in range(300)]
    )
    assert abs(float(means.mean()) - expected) < 5 * float(means.std()) / 300**0.5


@notices("flip", "shift")
def a_ratio_hides_exactly_that_share_and_the_same_blocks(lab: Lab) -> None:
    for ratio, count in ((0.3, 59), (0.5, 98), (0.75, 147), (0.9, 177)):
        view = lab.view("multi-block", 256, ratio=ratio, step=3)
        seen, goal, thrown = parts(view)
        assert ((goal | thrown).sum(1) == count).all() and view.length == 196 - count
        _, target, outside = parts(Lab().view("multi-block", 256, step=3))
        # Targets are hidden before what lies outside of the large block, and that before the rest of it.
        assert not (goal & ~target).any() and not (thrown & target).any()
        assert not ((seen & target).any(1) & thrown.any(1)).any()
        assert not ((seen & outside).any(1) & (thrown & ~outside).any(1)).any()


@notices("flip", "shift", "share")
def a_ratio_shows_a_random_part_of_the_large_block(lab: Lab) -> None:
    _, target, outside = parts(Lab().view("multi-block", 4096))
    room = ~target & ~outside
    enough = room.sum(1) >= 49
    seen, _, _ = parts(lab.view("multi-block", 4096, ratio=0.75))
    seen, room = seen[enough], room[enough]
    assert not (seen & ~room).any()
    p = (49 / room.sum(1, keepdim=True)).double() * room
    # Sums of independent Bernoulli draws; 196 patches beyond 5 standard deviations have probability 1e-4 in all.
    assert ((seen.double().sum(0) - p.sum(0)).abs() <= 5 * (p * (1 - p)).sum(0).sqrt()).all()


@notices("flip")
def matched_hides_exactly_three_quarters(lab: Lab) -> None:
    view = lab.view(REGISTRY.create("multi-block").matched(0.75), 64)
    assert view.hidden is not None and view.length == 49
    assert (view.hidden.sum(1) == 147).all()


test_holds, test_notices = invariants_of(__name__)


@pytest.mark.parametrize("edge", [False, True])
def test_only_edges_cover_all_patches(edge: bool) -> None:
    strategy = REGISTRY.create("multi-block", edge=edge)
    assert strategy.covers_all == edge
    _, target, _ = parts(Lab().view(strategy, 4096))
    image = target.any(0).view(14, 14)
    assert image[:13, :13].all()
    for border in (image[13], image[:, 13]):
        assert border.all() if edge else not border.any()
