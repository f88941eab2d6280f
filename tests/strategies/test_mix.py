"""MixMIM: two images in one, on images that are told apart by their pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import View
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices

OBLONG = Grid(6, 10, 4)


def weights(view: View) -> Tensor:
    weight = view.terms[0].weight
    assert weight is not None
    assert ((weight == 0) | (weight == 1)).all()
    return weight


def cells(lab: Lab, images: int = 4096, grid: Grid = TOKENS, unit: int = 2, **parameters: Any) -> np.ndarray:
    """(B, cells) bool, of cells of `unit` x `unit` patches, each of which must be mixed as a whole."""
    weight = weights(lab.view("mix", images, grid, unit=unit, **parameters))
    blocks = weight.view(-1, grid.rows // unit, unit, grid.cols // unit, unit)
    assert (blocks == blocks[:, :, :1, :, :1]).all(), "a cell is mixed as a whole"
    return blocks[:, :, 0, :, 0].flatten(1).bool().numpy()


def noise(images: int, grid: Grid = OBLONG, seed: int = 0) -> Tensor:
    return torch.randn(images, 3, *grid.image_size, generator=torch.Generator().manual_seed(seed))


def partners(lab: Lab, images: int, **parameters: Any) -> np.ndarray:
    """(B,) whose pixels each image has been given: every image is its own number."""
    numbers = torch.arange(images).float().view(-1, 1, 1, 1).expand(-1, 1, 14, 14)
    view = lab.view("mix", numbers.contiguous(), TOKENS, **parameters)
    mixed = weights(view).view(-1, 14, 14).bool()
    given = [image[0][where].unique() for image, where in zip(view.images, mixed, strict=True)]
    assert all(len(found) == 1 for found in given), "one other image"
    return torch.cat(given).long().numpy()


@notices("flip", "shift")
def half_of_the_cells_of_two_patches_are_mixed(lab: Lab) -> None:
    # Half of 49 is rounded up, as everywhere what is kept is truncated.
    cases: list[tuple[Grid, dict[str, Any], int]] = [
        (TOKENS, {}, 25), (TOKENS, {"ratio": 0.75}, 37), (TOKENS, {"unit": 7, "ratio": 0.75}, 3),
        (TOKENS, {"unit": 1, "ratio": 0.6}, 118), (Grid(6, 10, 1), {"ratio": 0.25}, 4),
    ]  # fmt: skip
    for grid, parameters, count in cases:
        assert (cells(lab, 64, grid, **parameters).sum(1) == count).all(), parameters


@notices("flip")
def exact_counts_patches_and_splits_at_most_one_cell(lab: Lab) -> None:
    for ratio, count in ((0.5, 98), (0.6, 118), (0.75, 147)):
        weight = weights(lab.view("mix", 256, ratio=ratio, exact=True, scope="image"))
        assert (weight.sum(1) == count).all()
        inside = weight.view(-1, 7, 2, 7, 2).sum((2, 4)).flatten(1)
        assert (((inside > 0) & (inside < 4)).sum(1) == (count % 4 != 0)).all()


@notices("share")
def exact_splits_a_cell_anywhere(lab: Lab) -> None:
    weight = weights(lab.view("mix", 2000, exact=True, scope="image")).view(-1, 7, 2, 7, 2)
    split = weight.sum((2, 4)) == 2
    parts = weight.permute(0, 1, 3, 2, 4)[split].flatten(1).long() @ torch.tensor([1, 2, 4, 8])
    # Two of four patches, in six ways.
    assert stats.chisquare(torch.bincount(parts, minlength=16)[[3, 5, 6, 9, 10, 12]].numpy()).pvalue > 1e-4
    places = split.flatten(1).long().argmax(1)
    assert stats.chisquare(torch.bincount(places, minlength=49).numpy()).pvalue > 1e-4


@notices("shift")
def mixed_pixels_are_anothers_at_the_same_place(lab: Lab) -> None:
    images = noise(32)
    for parameters in ({}, {"scope": "image"}, {"exact": True, "ratio": 0.6}):
        view = lab.view("mix", images, OBLONG, unit=2, **parameters)
        mixed = weights(view).view(-1, 6, 1, 10, 1).expand(-1, 6, 4, 10, 4).reshape(-1, 1, 24, 40).bool()
        mixed = mixed.expand_as(images)
        assert torch.equal(view.images[~mixed], images[~mixed])
        for row in range(32):
            same = [
                other for other in range(32) if torch.equal(view.images[row][mixed[row]], images[other][mixed[row]])
            ]
            assert len(same) == 1
            assert same != [row]


@notices("shift")
def a_batch_shares_its_cells(lab: Lab) -> None:
    mixed = cells(lab, 64)
    assert (mixed == mixed[0]).all()


@notices()
def the_cells_of_a_batch_change_with_every_step(lab: Lab) -> None:
    mixed = np.stack([cells(lab, 2, step=step)[0] for step in range(2000)])
    sd = (25 / 49 * 24 / 49 / 2000) ** 0.5  # Binomial(2000, 25/49) for each of 49 cells
    assert np.abs(mixed.mean(0) - 25 / 49).max() < 5 * sd


@notices("share")
def images_may_have_cells_of_their_own(lab: Lab) -> None:
    mixed = cells(lab, 4096, scope="image").astype(float)
    sd = (25 / 49 * 24 / 49 / 4096) ** 0.5  # Binomial(4096, 25/49) for each of 49 cells
    assert np.abs(mixed.mean(0) - 25 / 49).max() < 5 * sd
    both, expected = mixed.T @ mixed / 4096, 25 * 24 / (49 * 48)
    # 1,176 pairs: 5 standard deviations have probability 7e-4 in all.
    assert np.abs(both - expected)[~np.eye(49, dtype=bool)].max() < 5 * (expected * (1 - expected) / 4096) ** 0.5


@notices("share")
def partners_are_any_of_31_neighbours(lab: Lab) -> None:
    found = partners(lab, 3200)
    own = np.arange(3200)
    assert (found // 32 == own // 32).all()
    steps = (found - own) % 32
    assert (steps != 0).all()
    assert stats.chisquare(np.bincount(steps, minlength=32)[1:]).pvalue > 1e-4


@notices()
def small_batches_find_partners_too(lab: Lab) -> None:
    for images in (2, 3, 7, 8, 40):
        found = partners(lab, images)
        assert (found != np.arange(images)).all()
        assert ((found >= 0) & (found < images)).all()


@notices("flip", "shift")
def an_images_own_mixed_cells_are_recovered(lab: Lab) -> None:
    images, prediction = noise(32), noise(32, seed=1)
    view = lab.view("mix", images, OBLONG)
    changed = (view.images != images).any(1, keepdim=True).expand_as(images)
    got, _ = pixel_loss(prediction, view, OBLONG, normalise="none", error="l2")
    torch.testing.assert_close(got, (prediction - images).square()[changed].mean())
    assert view.hidden is None


test_holds, test_notices = invariants_of(__name__)


def test_grids_that_do_not_divide_are_refused() -> None:
    for grid, unit in ((Grid(7, 8, 1), 2), (Grid(8, 7, 1), 2), (TOKENS, 3)):
        with pytest.raises(ValueError, match="cells"):
            Lab().view("mix", 2, grid, unit=unit)


def test_bad_parameters_are_refused() -> None:
    for wrong in ({"ratio": 0}, {"ratio": 1}, {"ratio": float("nan")}, {"unit": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            REGISTRY.create("mix", **wrong)
