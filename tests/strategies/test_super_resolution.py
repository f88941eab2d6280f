"""MFM's super-resolution baseline, against bicubic interpolation as a plain loop."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

PUBLISHED = Grid(14, 14, 16)
SQUARE = Grid(4, 4, 8)
OBLONG = Grid(6, 10, 4)


def noise(images: int, grid: Grid, seed: int = 0) -> Tensor:
    return torch.randn(images, 3, *grid.image_size, generator=torch.Generator().manual_seed(seed))


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(distance), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@cache
def read_four(before: int, after: int) -> np.ndarray:
    """(after, before): each new pixel is read from the four around its centre, whatever the distance of two of them."""
    matrix = np.zeros((after, before))
    for new in range(after):
        centre = (new + 0.5) * before / after - 0.5
        for old in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[new, min(max(old, 0), before - 1)] += cubic(centre - old)
    return matrix


def down_and_up(images: Tensor, height: int, width: int) -> np.ndarray:
    """(B, C, H, W) by way of `height` x `width`, one axis after the other."""
    rows, cols = images.shape[2:]
    down, across = (read_four(few, many) @ read_four(many, few) for many, few in ((rows, height), (cols, width)))
    return np.einsum("ij,bcjk,lk->bcil", down, images.double().numpy(), across, optimize=True)


@notices("shift")
def images_are_read_at_few_points_and_enlarged(lab: Lab) -> None:
    for grid, factor, small in (
        (PUBLISHED, 8, (28, 28)), (Grid(8, 8, 4), 8, (4, 4)), (Grid(8, 16, 4), 8, (4, 8)), (Grid(4, 4, 8), 8, (4, 4)),
        (SQUARE, 2, (16, 16)), (OBLONG, 8, (3, 5)), (OBLONG, 7, (3, 5)), (OBLONG, 3, (8, 13)), (SQUARE, 20, (1, 1)),
    ):  # fmt: skip
        images = noise(2, grid)
        shown = lab.view("super-resolution", images, grid, factor=factor).images.numpy()
        np.testing.assert_allclose(shown, down_and_up(images, *small), rtol=0, atol=1e-4, err_msg=f"{grid} {factor}")


@notices()
def noise_stays_noise_because_nothing_is_averaged(lab: Lab) -> None:
    images = torch.rand(4, 3, *PUBLISHED.image_size, generator=torch.Generator().manual_seed(0))
    shown = lab.view("super-resolution", images, PUBLISHED).images.numpy()
    # Averaged it would be 0.026; with values clamped to [0, 1] after each step it would be 0.177.
    assert abs(shown.std() - 0.180) < 0.001
    clamped = images.double().numpy()
    for rows, cols in ((read_four(224, 28),) * 2, (read_four(28, 224),) * 2):
        clamped = np.clip(np.einsum("ij,bcjk,lk->bcil", rows, clamped, cols, optimize=True), 0, 1)
    assert abs(clamped.std() - 0.177) < 0.001
    assert abs(np.sqrt(np.square(shown - clamped).mean()) - 0.0085) < 0.0005
    assert abs((np.abs(shown - clamped) > 1e-5).mean() - 0.20) < 0.01


@notices()
def what_no_point_reads_is_lost(lab: Lab) -> None:
    for side, factor, axis in ((24, 8, 2), (24, 3, 2), (40, 8, 3), (40, 5, 3)):
        shrink = read_four(side, side // factor)
        blind = np.eye(side) - np.linalg.pinv(shrink) @ shrink
        images = torch.from_numpy(np.moveaxis(np.moveaxis(noise(2, OBLONG).numpy(), axis, -1) @ blind, -1, axis))
        assert images.std() > 0.5
        assert lab.view("super-resolution", images.float(), OBLONG, factor=factor).images.abs().max() < 1e-5


@notices()
def one_pixel_of_64_is_left(lab: Lab) -> None:
    basis = torch.eye(24 * 40).view(-1, 1, 24, 40)
    for factor, left in ((8, 3 * 5), (4, 6 * 10)):
        shown = lab.view("super-resolution", basis, OBLONG, factor=factor).images.flatten(1).double()
        assert torch.linalg.matrix_rank(shown, rtol=1e-5) == left


@notices()
def flat_images_stay_as_they_are(lab: Lab) -> None:
    images = torch.full((2, 3, 32, 32), 1.7)
    for factor in (2, 8, 32, 100):
        assert (lab.view("super-resolution", images, SQUARE, factor=factor).images - 1.7).abs().max() < 1e-5


@notices()
def shrinking_is_linear_and_channels_are_not_mixed(lab: Lab) -> None:
    one, two = noise(4, OBLONG), noise(4, OBLONG, seed=1)
    joint, first, second = (lab.view("super-resolution", images, OBLONG).images for images in (3 * one - two, one, two))
    assert (joint - (3 * first - second)).abs().max() < 1e-5
    changed = one.clone()
    changed[:, 1] += 1
    assert torch.equal(lab.view("super-resolution", changed, OBLONG).images[:, [0, 2]], first[:, [0, 2]])


@notices("flip")
def the_whole_detailed_image_is_recovered(lab: Lab) -> None:
    images, prediction = noise(8, OBLONG), noise(8, OBLONG, seed=1)
    view = lab.view("super-resolution", images, OBLONG)
    got, _ = pixel_loss(prediction, view, OBLONG, normalise="none", error="l2")
    torch.testing.assert_close(got, (prediction - images).square().mean())
    assert view.hidden is None


test_holds, test_notices = invariants_of(__name__)


def test_factors_that_do_not_shrink_are_refused() -> None:
    for factor in (1, 0, -8):
        with pytest.raises(ValueError, match="factor"):
            REGISTRY.create("super-resolution", factor=factor)
