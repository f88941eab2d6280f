"""Rectangles of BEiT, iBOT and DINOv2, against their published rule written as plain loops."""

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

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices

SMALL = Grid(3, 5, 1)  # few enough patches to compare whole masks


def rule(
    draw: random.Random, rows: int, cols: int, target: float, smallest: float, largest: float = math.inf
) -> np.ndarray:
    """One mask of BEiT's rule; iBOT's has a fractional target, DINOv2's a largest area."""
    hidden = np.zeros((rows, cols), bool)
    done = 0
    while done < target:
        budget = min(target - done, largest)
        for _ in range(10):
            area = draw.uniform(smallest, budget)
            aspect = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= rows or width >= cols:
                continue
            top, left = draw.randint(0, rows - height), draw.randint(0, cols - width)
            block = hidden[top : top + height, left : left + width]
            new = height * width - int(block.sum())
            if 0 < new <= budget:
                block[:] = True
                done += new
                break
        else:
            break
    return hidden.reshape(-1)


@cache
def by_rule(
    images: int, rows: int, cols: int, low: float, high: float, smallest: int, largest: float = math.inf
) -> Tensor:
    """(B, N) bool: masks whose targets are uniform between `low` and `high`."""
    draw = random.Random(0)
    masks = [rule(draw, rows, cols, draw.uniform(low, high), smallest, largest) for _ in range(images)]
    return torch.from_numpy(np.stack(masks))


@cache
def drawn(breakage: str, name: str, images: int, grid: Grid = TOKENS, **given: float) -> Tensor:
    """(B, N) bool: what the strategy hides; drawn once for all invariants of the same parameters."""
    return Lab(breakage).hidden(name, images, grid, **given)


def same_law(found: list[int] | list[bytes], expected: list[int] | list[bytes]) -> bool:
    """Two-sample chi-square; outcomes seen fewer than 20 times in all are pooled."""
    one, two = Counter(found), Counter(expected)
    common = [outcome for outcome in one | two if one[outcome] + two[outcome] >= 20]
    table = [[sample[outcome] for outcome in common] for sample in (one, two)]
    rare = [len(found) - sum(table[0]), len(expected) - sum(table[1])]
    if sum(rare) >= 20:
        table = [[*row, rest] for row, rest in zip(table, rare, strict=True)]
    return len(table[0]) == 1 or stats.chi2_contingency(table).pvalue > 1e-4


def same_counts(found: Tensor, expected: Tensor) -> bool:
    return same_law(found.sum(1).tolist(), expected.sum(1).tolist())


def same_masks(found: Tensor, expected: Tensor) -> bool:
    return same_law([row.tobytes() for row in found.numpy()], [row.tobytes() for row in expected.numpy()])


def same_coverage(found: Tensor, expected: Tensor) -> bool:
    """Each patch as often hidden in both samples: two binomials differ by 5 standard deviations, each 6e-7."""
    share = (found.double().mean(0) + expected.double().mean(0)) / 2
    sd = (share * (1 - share) * (1 / len(found) + 1 / len(expected))).sqrt()
    return bool(((found.double().mean(0) - expected.double().mean(0)).abs() <= 5 * sd).all())


def neighbours(hidden: Tensor) -> Tensor:
    """(B,) pairs of hidden patches side by side, on the 14 x 14 grid."""
    image = hidden.view(-1, 14, 14)
    return (image[:, 1:] & image[:, :-1]).sum((1, 2)) + (image[:, :, 1:] & image[:, :, :-1]).sum((1, 2))


def same_mean(found: Tensor, expected: Tensor) -> bool:
    """Welch's test at 5 standard errors, probability 6e-7."""
    a, b = found.double(), expected.double()
    return bool((a.mean() - b.mean()).abs() <= 5 * (a.var() / len(a) + b.var() / len(b)).sqrt())


@notices("flip", "share")
def block_reaches_75_in_two_of_three_images_and_never_exceeds_it(lab: Lab) -> None:
    counts = drawn(lab.breakage, "block", 2048).sum(1).double()
    assert counts.max() == 75 and counts.min() > 60
    # Published statistics of the rule: P(75) = .667, mean 74.50. Binomial(2048, .667): 5 deviations are .052. The
    # standard deviation of a count is near 1: 5 standard errors are .11.
    assert abs(float((counts == 75).double().mean()) - 0.667) < 0.052
    assert abs(float(counts.mean()) - 74.5) < 0.11
    assert same_counts(drawn(lab.breakage, "block", 2048), by_rule(2000, 14, 14, 75, 75, 16))


@notices("flip", "shift", "share")
def block_covers_each_patch_as_often_as_the_rule(lab: Lab) -> None:
    assert same_coverage(drawn(lab.breakage, "block", 2048), by_rule(2000, 14, 14, 75, 75, 16))


@notices("flip", "share")
def block_covers_the_centre_ten_times_as_often_as_corners(lab: Lab) -> None:
    cover = drawn(lab.breakage, "block", 2048).double().mean(0).view(14, 14)
    corners, centre = cover[[0, 0, 13, 13], [0, 13, 0, 13]], cover[6:8, 6:8]
    edges = torch.stack([cover[0, 6:8], cover[13, 6:8], cover[6:8, 0], cover[6:8, 13]])
    # Published: .039, .19 and .73. Means of 4 or 8 binomials of 2048, at most fully correlated: 5 deviations each.
    for found, published in ((corners, 0.039), (edges, 0.19), (centre, 0.73)):
        assert abs(float(found.mean()) - published) < 5 * (published * (1 - published) / 2048) ** 0.5
    assert centre.mean() > 10 * corners.mean()


@notices("flip", "share")
def block_hides_patches_side_by_side_as_the_rule_does(lab: Lab) -> None:
    hidden = drawn(lab.breakage, "block", 2048)
    assert neighbours(hidden).double().std() > 0  # one mask for all may well lie near the mean
    assert same_mean(neighbours(hidden), by_rule_neighbours())
    # A random subset of 75 of 196 has 364 * (75 * 74) / (196 * 195) = 52.9 such pairs.
    assert neighbours(hidden).double().mean() > 2 * 52.9


@cache
def by_rule_neighbours() -> Tensor:
    return neighbours(by_rule(2000, 14, 14, 75, 75, 16))


@notices("flip", "shift", "share")
def block_draws_whole_masks_from_the_law_of_the_rule(lab: Lab) -> None:
    hidden = drawn(lab.breakage, "block", 4096, SMALL, ratio=7 / 15, smallest=3)
    assert same_masks(hidden, by_rule(4000, 3, 5, 7, 7, 3))


@notices("flip", "share")
def block_follows_its_parameters(lab: Lab) -> None:
    # Published: K = 78 from 15 patches (MaskFeat) mean 77.6, K = 147 from 16 mean 146.3; the last digits are noisy.
    for ratio, smallest, target, mean in ((78 / 196, 15, 78, 77.6), (0.75, 16, 147, 146.3)):
        counts = drawn(lab.breakage, "block", 1024, ratio=ratio, smallest=smallest).sum(1).double()
        assert counts.max() == target
        assert abs(float(counts.mean()) - mean) < 0.05 + 5 * float(counts.std()) / 1024**0.5
    reference = by_rule(1000, 14, 14, 147, 147, 16)
    found = drawn(lab.breakage, "block", 1024, ratio=0.75)
    assert same_counts(found, reference) and same_coverage(found, reference)


@notices("flip")
def block_never_spans_the_grid_with_one_rectangle(lab: Lab) -> None:
    # Two rows take rectangles of one row only, of 11 columns at most: 12 in a row need a second one.
    flat = drawn(lab.breakage, "block", 2048, Grid(2, 12, 1), ratio=0.5, smallest=6)
    assert same_counts(flat, by_rule(2000, 2, 12, 12, 12, 6))
    assert same_coverage(flat, by_rule(2000, 2, 12, 12, 12, 6))


@notices("flip", "share")
def exact_blocks_add_single_patches_uniformly_over_those_left(lab: Lab) -> None:
    loose, exact = drawn(lab.breakage, "block", 2048), drawn(lab.breakage, "block", 2048, exact=True)
    assert (exact.sum(1) == 75).all()
    assert not (loose & ~exact).any()
    # An image short of s patches adds each of the 196 - count left with probability p = s / (196 - count).
    p = ((75 - loose.sum(1)) / (196 - loose.sum(1))).double()[:, None] * ~loose
    added = (exact & ~loose).double().sum(0)
    assert ((added - p.sum(0)).abs() <= 5 * (p * (1 - p)).sum(0).sqrt()).all()  # 196 patches: 1e-4 in all
    assert len({row.tobytes() for row in (exact & ~loose).numpy()}) > 100


@notices("flip")
def matched_blocks_hide_exactly_three_quarters(lab: Lab) -> None:
    for name in ("block", "block-ibot", "block-dinov2"):
        view = lab.view(REGISTRY.create(name).matched(0.75), 256)
        assert view.hidden is not None
        assert (view.hidden.sum(1) == 147).all() and view.length == 49
        assert neighbours(view.hidden).double().mean() > 1.05 * 364 * (147 * 146) / (196 * 195)  # than random subsets


@notices("flip", "share")
def ibot_leaves_half_of_the_images_whole(lab: Lab) -> None:
    hidden = drawn(lab.breakage, "block-ibot", 2048)
    some = hidden.any(1)
    assert abs(float(some.double().mean()) - 0.5) < 5 * (0.25 / 2048) ** 0.5  # binomial
    share = hidden[some].double().mean(1)
    # Published from a few hundred draws: .07 to .5. The rule stops at 13 of 19 or fewer once in 40,000 images.
    assert 0.05 < share.min() < 0.11 and 0.48 < share.max() <= 0.5
    # Published: .149 in all. The ratio's standard deviation is below .18: 5 standard errors are .02.
    assert abs(float(hidden.double().mean()) - 0.149) < 0.02
    rare = drawn(lab.breakage, "block-ibot", 2048, masked=0.2).any(1).double().mean()
    assert abs(float(rare) - 0.2) < 5 * (0.16 / 2048) ** 0.5


@notices("flip", "shift", "share")
def ibot_draws_its_ratio_for_each_image(lab: Lab) -> None:
    hidden, reference = drawn(lab.breakage, "block-ibot", 2048, masked=1.0), by_rule(2000, 14, 14, 19.6, 98, 16)
    assert same_counts(hidden, reference)
    assert same_coverage(hidden, reference)


@notices("flip", "share")
def ibot_never_reaches_a_fractional_count(lab: Lab) -> None:
    # Published: at .3 of 196 (58.8) mean 57.25 and at most 58, at .1 (19.6) mean 17.6; last digits are noisy.
    for ratio, mean in ((0.3, 57.25), (0.1, 17.6)):
        counts = drawn(lab.breakage, "block-ibot", 2048, ratio=ratio, masked=1.0).sum(1).double()
        assert counts.max() <= int(196 * ratio)
        assert abs(float(counts.mean()) - mean) < 0.05 + 5 * float(counts.std()) / 2048**0.5
        reference = by_rule(2000, 14, 14, 196 * ratio, 196 * ratio, 16)
        assert same_counts(drawn(lab.breakage, "block-ibot", 2048, ratio=ratio, masked=1.0), reference)


@notices("flip", "shift", "share")
def ibot_takes_its_smallest_rectangle_from_the_grid(lab: Lab) -> None:
    wide = drawn(lab.breakage, "block-ibot", 2048, Grid(8, 11, 1), ratio=0.3, masked=1.0)
    reference = by_rule(2000, 8, 11, 0.3 * 88, 0.3 * 88, 4)  # a third of 8, squared
    assert same_counts(wide, reference) and same_coverage(wide, reference)
    small = drawn(lab.breakage, "block-ibot", 4096, SMALL, ratio=0.36, masked=1.0)
    assert same_masks(small, by_rule(4000, 3, 5, 0.36 * 15, 0.36 * 15, 1))


@notices("flip", "share")
def exact_ibot_meets_the_count_of_the_drawn_ratio(lab: Lab) -> None:
    fixed = drawn(lab.breakage, "block-ibot", 64, ratio=0.3, masked=1.0, exact=True)
    assert (fixed.sum(1) == 59).all()
    loose, exact = (drawn(lab.breakage, "block-ibot", 2048, masked=1.0, exact=exact) for exact in (False, True))
    assert not (loose & ~exact).any()
    # A count c stands for ratios in ((c - 1) / 196, c / 196]; the range is 78.4 / 196 wide and starts at 19.6 / 196.
    counts = exact.sum(1).bincount(minlength=99)[20:].tolist()
    widths = [0.4, *[1.0] * 78]
    assert len(counts) == 79 and sum(counts) == 2048
    assert stats.chisquare(counts, [2048 * width / 78.4 for width in widths]).pvalue > 1e-4


@notices("flip")
def dinov2_masks_half_of_every_batch_rounded_down(lab: Lab) -> None:
    for size, masked, chosen in ((64, 0.5, 32), (63, 0.5, 31), (1, 0.5, 0), (10, 0.25, 2), (5, 1.0, 5)):
        for step in range(4):
            hidden = lab.hidden("block-dinov2", size, step=step, masked=masked)
            assert int(hidden.any(1).sum()) == chosen, (size, masked)


@notices("flip", "share")
def dinov2_takes_one_ratio_from_each_slice_of_the_range(lab: Lab) -> None:
    # Four of eight images are masked, at ratios in (.1, .2) to (.4, .5); the rule misses a target by a few patches.
    batches = [lab.hidden("block-dinov2", 8, step=step, seed=step).sum(1).sort().values[4:] for step in range(24)]
    counts = torch.stack(batches)
    for slot, found in enumerate(counts.T):
        assert found.max() <= 196 * (0.2 + 0.1 * slot) and found.min() >= 196 * (0.1 + 0.1 * slot) - 6
    # Slices of 19.6 patches are drawn in independently: the difference of two has variance 2 * 19.6**2 / 12. The
    # sample variance of 24 normal ones is within .15 and 2.9 of that with probability 1 - 1e-5, of these even more.
    for one, other in itertools.pairwise(counts.double().T):
        assert 0.15 < float((other - one).var()) / (2 * 19.6**2 / 12) < 2.9


@notices("flip")
def dinov2_spreads_ratios_evenly_over_the_batch(lab: Lab) -> None:
    counts = drawn(lab.breakage, "block-dinov2", 2048).sum(1)
    # 1024 slices of (.1, .5): a count of c or more has (98 - c) / 78.4 of them, to within one slice, less what the
    # rule misses: .08 on average as published (its standard deviation is below .5, 5 standard errors below .08).
    wanted = [1024 * (98 - count) / 78.4 for count in range(20, 99)]
    found = [int((counts >= count).sum()) for count in range(20, 99)]
    assert all(many <= most + 1 for many, most in zip(found, wanted, strict=True))
    assert abs((sum(wanted) - sum(found)) / 1024 - 0.08) < 0.08


@notices("flip")
def dinov2_shuffles_who_is_masked_and_how_much(lab: Lab) -> None:
    masked = drawn(lab.breakage, "block-dinov2", 2048).any(1)
    assert int(masked.sum()) == 1024
    by_place = masked.view(32, 64).sum(1)
    assert stats.chi2_contingency(torch.stack([by_place, 64 - by_place]).numpy()).pvalue > 1e-4
    pairs = [int((masked[::2] * 2 + masked[1::2] == pair).sum()) for pair in range(4)]
    assert stats.chi2_contingency([pairs[:2], pairs[2:]]).pvalue > 1e-4
    counts = drawn(lab.breakage, "block-dinov2", 2048).sum(1)[masked]
    assert stats.spearmanr(range(1024), counts).pvalue > 1e-4
    other = drawn(lab.breakage, "block-dinov2", 2048, step=1).any(1)
    assert abs(int((masked & other).sum()) - 512) < 5 * 11.4  # hypergeometric, 1024 of 2048 twice: deviation 11.3


@notices("flip", "share")
def dinov2_of_scope_image_draws_each_ratio_by_itself(lab: Lab) -> None:
    hidden = drawn(lab.breakage, "block-dinov2", 2048, scope="image")
    some = hidden.any(1)
    assert abs(float(some.double().mean()) - 0.5) < 5 * (0.25 / 2048) ** 0.5  # binomial
    counts = hidden[some].sum(1)
    # K = int(196 * U(.1, .5)), reached in 92 % of the images and missed by .08 on average: a patch and a half covers
    # int's half a patch and that. Uniform over 78.4 patches: standard deviation 22.6, 5 standard errors of 1000: 3.6.
    assert abs(float(counts.double().mean()) - 58.8) < 1.5 + 3.6
    assert abs(float(counts.double().std()) - 22.6) < 2
    assert counts.max() <= 98


@notices("flip", "shift", "share")
def dinov2_allows_small_rectangles_and_caps_large_ones(lab: Lab) -> None:
    fixed = drawn(lab.breakage, "block-dinov2", 2048, ratio=0.3, masked=1.0)
    reference = by_rule(2000, 14, 14, 58, 58, 4, 98)
    assert same_counts(fixed, reference) and same_coverage(fixed, reference)
    counts = fixed.sum(1).double()
    # Published over all counts: P(exact) = .92, mean deficit .08. Binomial: 5 deviations are .03.
    assert abs(float((counts == 58).double().mean()) - 0.92) < 0.03 + 0.02
    assert abs(58 - float(counts.mean()) - 0.08) < 0.05
    four = drawn(lab.breakage, "block-dinov2", 4096, Grid(4, 4, 1), ratio=0.5, masked=1.0)
    assert same_masks(four, by_rule(4000, 4, 4, 8, 8, 4, 8))
    small = drawn(lab.breakage, "block-dinov2", 4096, SMALL, ratio=0.5, masked=1.0, smallest=1, largest=0.2)
    assert same_masks(small, by_rule(4000, 3, 5, 7, 7, 1, 3))


@notices("flip", "shift", "share")
def dinov2_follows_the_rule_at_three_quarters(lab: Lab) -> None:
    found = drawn(lab.breakage, "block-dinov2", 1024, ratio=0.75, masked=1.0)
    reference = by_rule(1000, 14, 14, 147, 147, 4, 98)
    assert same_counts(found, reference) and same_coverage(found, reference)


test_holds, test_notices = invariants_of(__name__)


@pytest.mark.parametrize("name", ["block-ibot", "block-dinov2"])
def test_ranges_of_ratios_must_ascend(name: str) -> None:
    with pytest.raises(ValueError, match="ascending"):
        REGISTRY.create(name, ratio=(0.5, 0.1))
