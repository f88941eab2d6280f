"""MFM's super-resolution baseline, against Pillow's bicubic filter."""

import numpy as np
import pytest
import torch
from PIL import Image
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


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def down_and_up(images: Tensor, height: int, width: int) -> np.ndarray:
    """(B, C, H, W) by way of `height` x `width`, in Pillow, one channel after another."""
    out = images.numpy().copy()
    for image in out:
        for channel in image:
            channel[:] = resized(resized(channel, height, width), *channel.shape)
    return out


@notices("shift")
def images_are_shrunk_and_enlarged_as_in_pillow(lab: Lab) -> None:
    for grid, factor, small in (
        (SQUARE, 8, (4, 4)), (SQUARE, 2, (16, 16)), (OBLONG, 8, (3, 5)), (OBLONG, 3, (8, 13)),
    ):  # fmt: skip
        images = noise(2, grid)
        shown = lab.view("super-resolution", images, grid, factor=factor).images.numpy()
        np.testing.assert_allclose(shown, down_and_up(images, *small), rtol=0, atol=1e-4, err_msg=f"{grid} {factor}")


@notices("shift")
def shrinking_averages_and_does_not_pick(lab: Lab) -> None:
    images = noise(4, PUBLISHED)
    shown = lab.view("super-resolution", images, PUBLISHED).images.numpy()
    expected = down_and_up(images, 28, 28)
    # Both are the same 28 x 28 values, enlarged by cubic kernels that may differ in their one parameter.
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.99
    assert shown.std() < 0.2


@notices()
def what_pillow_shrinks_away_is_lost(lab: Lab) -> None:
    for side, factor, axis in ((24, 8, 2), (24, 3, 2), (40, 8, 3), (40, 5, 3)):
        shrink = resized(np.eye(side, dtype=np.float32), side // factor, side).astype(float)
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
