"""GMML against its rule written plainly, and against the published generator's statistics."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from maskbench.api import degrade
from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.view import realised_ratio
from maskbench.strategies.gmml import CANDIDATES, Gmml, Spans, number_of_first_cover
from maskbench.strategy import REGISTRY

BIG = Grid(14, 14, 16)


def context(grid: Grid, count: int, seed: int = 0) -> Context:
    return Context(grid, torch.arange(count), seed=seed, epoch=0, step=0)


def painted(vertical: Spans, horizontal: Spans, cells: Grid, row: int) -> list[set[int]]:
    """The union of the first 1, 2, ... rectangles of one image, cell by cell."""
    unions, covered = [], set()
    for m in range(CANDIDATES):
        top, left = int(vertical.start[row, m]), int(horizontal.start[row, m])
        for r in range(top, top + int(vertical.extent[row, m])):
            for c in range(left, left + int(horizontal.extent[row, m])):
                covered.add(r * cells.cols + c)
        unions.append(set(covered))
    return unions


def test_first_cover_is_that_of_the_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    # Many rectangles per cell, few, and none.
    share = torch.tensor([0.9, 0.3, 0.1, 0.03, 0.0])[:, None, None]
    rows = (torch.rand(5, CANDIDATES, 6, generator=generator) < share).float()
    cols = (torch.rand(5, CANDIDATES, 7, generator=generator) < share).float()
    found = number_of_first_cover(rows, cols).view(5, 6, 7)
    for image, row, col in itertools.product(range(5), range(6), range(7)):
        covering = [m for m in range(CANDIDATES) if rows[image, m, row] and cols[image, m, col]]
        assert int(found[image, row, col]) == min(covering, default=CANDIDATES)


@pytest.mark.parametrize("anchors", ["published", "uniform"])
@pytest.mark.parametrize("cells", [Grid(8, 12, 4), Grid(20, 16, 1)], ids=["patch", "pixel"])
def test_cut_is_the_first_union_that_is_large_enough(anchors: str, cells: Grid) -> None:
    gmml = Gmml(anchors=anchors, largest=0.4)
    drawn = context(cells, 6)
    spans = [gmml.draw_spans(drawn, cells.rows, cells.patch), gmml.draw_spans(drawn, cells.cols, cells.patch)]
    rectangles = gmml.draw_round(context(cells, 6), cells)
    ratio = torch.tensor([[0.1], [0.3], [0.5], [0.6], [0.7], [0.75]])
    covered = gmml.select_covered(rectangles, ratio, cells, drawn)
    for row in range(6):
        unions = painted(*spans, cells, row)
        expected = next(union for union in unions if len(union) >= float(ratio[row]) * cells.size)
        assert set(covered[row].nonzero()[:, 0].tolist()) == expected


def plain_mask(side: int, low: float, high: float, unit: int) -> np.ndarray:
    """The published rule (step A), one image, one rectangle after another, in cells of `unit` pixels."""
    cells = side // unit
    target = random.uniform(low, high) * cells * cells
    most = int(0.3 * side)
    mask = np.zeros((cells, cells), bool)
    while mask.sum() < target:
        row, col = (random.randrange(side - unit) // unit for _ in range(2))
        height, width = (round(min(random.randrange(unit, most), side - at * unit) / unit) for at in (row, col))
        mask[row : row + height, col : col + width] = True
    return mask


@pytest.mark.parametrize(("side", "unit"), [(32, 1), (32, 4), (224, 16)])
def test_coverage_matches_the_published_rule(side: int, unit: int) -> None:
    plain_draws, draws = 1500, 3000
    random.seed(0)
    plain = torch.from_numpy(np.stack([plain_mask(side, 0.5, 0.75, unit) for _ in range(plain_draws)])).float()
    patch = max(unit, 4)
    gmml = Gmml(alien=0, fill="zeros", align="pixel" if unit == 1 else "patch")
    batches = [degrade(gmml, torch.ones(500, 1, side, side), patch_size=patch, seed=seed) for seed in range(6)]
    ours = torch.cat([(view.images[:, 0, ::unit, ::unit] == 0).float() for view in batches])
    # A cell is Bernoulli in both samples: their means differ by more than 5 standard errors with probability 6e-7,
    # for all of at most 1,024 cells 6e-4.
    p = (plain.sum(0) + ours.sum(0)) / (plain_draws + draws)
    error = (p * (1 - p) * (1 / plain_draws + 1 / draws)).sqrt()
    assert ((plain.mean(0) - ours.mean(0)).abs() / error).max() < 5
    ratios = plain.mean((1, 2)), ours.mean((1, 2))
    assert stats.ks_2samp(*ratios).pvalue > 1e-4


def test_published_bias_and_its_clean_form() -> None:
    coverage = {}
    for anchors in ("published", "uniform"):
        gmml = Gmml(alien=0, fill="zeros", align="patch", anchors=anchors)
        view = degrade(gmml, torch.ones(2000, 1, 224, 224), patch_size=16)
        coverage[anchors] = view.terms[0].weight.mean(0).view(14, 14)
    published, uniform = coverage["published"], coverage["uniform"]
    assert published[0, 0] < 0.3 * published[7, 7]
    assert published[0, 7] < 0.65 * published[7, 7]
    assert published[13, 13] < 0.65 * published[7, 7]
    assert (uniform - uniform.mean()).abs().max() < 5 * math.sqrt(0.25 / 2000)


def test_ratios_of_drop_and_alien() -> None:
    x = torch.randn(4096, 3, 32, 32)
    view = degrade("gmml", x, patch_size=4)
    ratio = realised_ratio(view, Grid(8, 8, 4))
    alien = ratio < 0.45
    # Each image is one or the other with probability 1/2; the overshoot is below one largest block, (8/32)^2.
    assert abs(int(alien.sum()) - 2048) < 4 * math.sqrt(4096 / 4)
    assert (ratio[alien] >= 0.3).all()
    assert (ratio[alien] < 0.3 + 1 / 16).all()
    assert (ratio[~alien] >= 0.5).all()
    assert (ratio[~alien] < 0.75 + 1 / 16).all()


def test_fills_are_what_they_say() -> None:
    x = torch.randn(64, 3, 32, 32)
    masks = {}
    for fill in ("noise", "zeros", "self", "alien"):
        view = degrade("gmml", x, patch_size=4, fill=fill, alien=0)
        weight = view.terms[0].weight.bool().expand_as(x)
        assert torch.equal(view.images[~weight], x[~weight])
        masks[fill] = weight
        content = view.images[weight]
        if fill == "noise":
            assert abs(float(content.mean())) < 4 / math.sqrt(content.numel())
            assert abs(float(content.var()) - 1) < 4 * math.sqrt(2 / content.numel())
            assert not torch.isin(content, x).all()
        elif fill == "zeros":
            assert (content == 0).all()
        elif fill == "self":
            for i in range(64):
                assert torch.isin(view.images[i], x[i]).all()
        else:
            for i in range(64):
                same = [(view.images[i] == x[j])[weight[i]].all() for j in range(64) if j != i]
                assert sum(map(bool, same)) == 1
    # The fill does not change where.
    assert all(torch.equal(mask, masks["zeros"]) for mask in masks.values())


def test_self_copies_whole_blocks_from_inside_the_image() -> None:
    row, col = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    x = torch.stack([row, col])[None].repeat(16, 1, 1, 1)
    view = degrade("gmml", x, patch_size=4, fill="self", alien=0, align="patch", ratio=0.3)
    moved = (view.images - x).view(16, 2, 8, 4, 8, 4)
    assert (moved == moved[:, :, :, :1, :, :1]).all(), "a patch moves as a whole"
    assert (moved % 4 == 0).all(), "by whole patches"
    assert moved.abs().amax((0, 2, 3, 4, 5)).min() > 0, "in both directions"


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.95])
def test_exact_is_exact_and_a_subset_of_one_more_rectangle(ratio: float) -> None:
    gmml = REGISTRY.create("gmml", fill="zeros", alien=0).matched(ratio)
    view = degrade(gmml, torch.ones(256, 1, 224, 224), patch_size=16)
    assert (view.terms[0].weight.sum(1) == BIG.count(ratio)).all()


def test_a_patch_as_large_as_the_largest_block_is_refused() -> None:
    with pytest.raises(ValueError, match="raise largest or use align=pixel"):
        degrade("gmml", torch.zeros(2, 3, 32, 32), patch_size=16, align="patch")


def test_a_users_autocast_changes_nothing() -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = degrade("gmml", images, patch_size=4)
    with torch.autocast("cpu", torch.bfloat16):
        view = degrade("gmml", images, patch_size=4)
    assert torch.equal(view.images, plain.images) and view.images.dtype == torch.float32
