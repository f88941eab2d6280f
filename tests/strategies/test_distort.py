"""Beyond Masking's distorted task, on images whose channels are the coordinates: they tell where each pixel is read."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

SMALL = Grid(8, 8, 1)
OBLONG = Grid(6, 10, 4)


def coordinates(images: int, grid: Grid) -> Tensor:
    """(B, 2, H, W) float64: places across and down, in [-1, 1]. Bilinear sampling is exact on them."""
    height, width = grid.image_size
    across = torch.linspace(-1, 1, width, dtype=torch.float64).expand(height, width)
    down = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None].expand(height, width)
    return torch.stack([across, down]).expand(images, 2, height, width).contiguous()


def lenses(read: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, 2) centre c and (B,) strength m of displacements m * |c - g| * (c - g).

    A displacement over the root of its length is sqrt(m) * (c - g), a straight line in g: fitted by least squares,
    weighted by length because rounding is divided by a root that vanishes at the centre.
    """
    moved = read - place
    length = np.sqrt((moved**2).sum(1, keepdims=True))
    root = moved / np.sqrt(np.maximum(length, 1e-12))
    weight = length / length.sum((2, 3), keepdims=True)
    mean_place = (weight * place).sum((2, 3), keepdims=True)
    mean_root = (weight * root).sum((2, 3), keepdims=True)
    off = place - mean_place
    slope = -(weight * off * (root - mean_root)).sum((1, 2, 3)) / (weight * off**2).sum((1, 2, 3))
    return (mean_place + mean_root / slope[:, None, None, None])[:, :, 0, 0], slope**2


def seen(lab: Lab, images: int = 3000, grid: Grid = SMALL) -> tuple[np.ndarray, np.ndarray]:
    """Centres and strengths."""
    place = coordinates(images, grid)
    return lenses(lab.view("distort", place, grid).images.numpy(), place.numpy())


@notices("shift")
def pixels_are_read_nearer_to_the_centre_by_m_times_distance_squared(lab: Lab) -> None:
    for grid in (SMALL, OBLONG):
        place = coordinates(256, grid)
        read = lab.view("distort", place, grid).images.numpy()
        centre, strength = lenses(read, place.numpy())
        towards = centre[:, :, None, None] - place.numpy()
        distance = np.sqrt((towards**2).sum(1, keepdims=True))
        expected = strength[:, None, None, None] * distance * towards
        np.testing.assert_allclose(read - place.numpy(), expected, rtol=0, atol=2e-6)  # float32 places


@notices("share", "shift")
def centres_are_uniform_over_the_image(lab: Lab) -> None:
    centre, _ = seen(lab)
    for axis in range(2):
        assert stats.kstest(centre[:, axis], stats.uniform(-1, 2).cdf).pvalue > 1e-4
    cell = np.floor(2 * (centre + 1)).astype(int)
    assert stats.chisquare(np.bincount(4 * cell[:, 0] + cell[:, 1], minlength=16)).pvalue > 1e-4


@notices("share", "shift")
def strengths_are_uniform_in_the_published_range(lab: Lab) -> None:
    centre, strength = seen(lab)
    assert strength.min() > 0.15 - 1e-5
    assert strength.max() < 0.25 + 1e-5
    assert stats.kstest(strength, stats.uniform(0.15, 0.1).cdf).pvalue > 1e-4
    for axis in range(2):
        assert stats.spearmanr(strength, centre[:, axis]).pvalue > 1e-4


@notices("shift")
def the_strength_is_the_one_asked_for(lab: Lab) -> None:
    place = coordinates(64, OBLONG)
    for strength in (0.01, 0.35):
        read = lab.view("distort", place, OBLONG, strength=(strength, strength)).images.numpy()
        np.testing.assert_allclose(lenses(read, place.numpy())[1], strength, rtol=1e-4)


@notices("shift")
def without_strength_nothing_moves(lab: Lab) -> None:
    images = torch.randn(8, 3, *OBLONG.image_size, generator=torch.Generator().manual_seed(0))
    shown = lab.view("distort", images, OBLONG, strength=(1e-7, 1e-7)).images
    assert (shown - images).abs().max() < 1e-4  # at most 8e-7 of half an image away


@notices("shift")
def textures_are_interpolated_bilinearly(lab: Lab) -> None:
    texture = torch.randn(8, 1, *OBLONG.image_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    place = coordinates(8, OBLONG)
    shown = lab.view("distort", torch.cat([place, texture], 1), OBLONG).images.numpy()
    centre, strength = lenses(shown[:, :2], place.numpy())
    towards = centre[:, :, None, None] - place.numpy()
    read = place.numpy() + strength[:, None, None, None] * np.hypot(towards[:, :1], towards[:, 1:]) * towards
    height, width = OBLONG.image_size
    for got, image, (across, down) in zip(shown[:, 2], texture[:, 0].numpy(), read, strict=True):
        at = [(down + 1) / 2 * (height - 1), (across + 1) / 2 * (width - 1)]
        expected = ndimage.map_coordinates(image, at, order=1, mode="nearest")
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)


@notices()
def nothing_is_read_outside_the_image(lab: Lab) -> None:
    # m * |c - g| is at most 0.25 * 2 * sqrt(2) = 0.71 < 1: every place read lies between a pixel and the centre.
    ones = torch.ones(1024, 1, *SMALL.image_size)
    assert (lab.view("distort", ones, SMALL).images - 1).abs().max() < 1e-5
    assert lab.view("distort", coordinates(1024, SMALL), SMALL).images.abs().max() < 1 + 1e-6


@notices("flip")
def the_whole_flat_image_is_recovered(lab: Lab) -> None:
    images = torch.randn(8, 3, *OBLONG.image_size, generator=torch.Generator().manual_seed(0))
    prediction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    view = lab.view("distort", images, OBLONG)
    got, _ = pixel_loss(prediction, view, OBLONG, normalise="none", error="l2")
    torch.testing.assert_close(got, (prediction - images).square().mean())
    assert view.hidden is None


test_holds, test_notices = invariants_of(__name__)


def test_bad_ranges_are_refused() -> None:
    for strength in ((0.25, 0.15), (0, 0.2), (0.2, 1), (-0.1, 0.2), (0.1, float("nan"))):
        with pytest.raises(ValueError, match="strength"):
            REGISTRY.create("distort", strength=strength)
