"""MFM, against the full Fourier transform of numpy."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices

PUBLISHED = Grid(14, 14, 16)
OBLONG = Grid(6, 10, 4)
ODD = Grid(5, 3, 7)
NEARLY = Grid(12, 12, 16)  # 192 px, where unlike at 224 no frequency lies on the circle itself
RADIUS = 16 / 224


def noise(images: int, grid: Grid, seed: int = 0) -> Tensor:
    return 0.5 + torch.randn(images, 3, *grid.image_size, generator=torch.Generator().manual_seed(seed))


def shown(lab: Lab, images: Tensor, grid: Grid, **parameters: Any) -> np.ndarray:
    return lab.view("frequency", images, grid, **parameters).images.double().numpy()


def waves(pictures: np.ndarray) -> np.ndarray:
    """The full spectrum, unitary."""
    return np.fft.fft2(pictures, norm="ortho")


def lengths(grid: Grid) -> np.ndarray:
    """(H, W) cycles a pixel of every frequency."""
    height, width = grid.image_size
    down = [min(k, height - k) / height for k in range(height)]
    across = [min(k, width - k) / width for k in range(width)]
    return np.hypot(np.array(down)[:, None], across)


@notices("shift")
def low_and_high_frequencies_add_up_to_the_image(lab: Lab) -> None:
    for grid in (OBLONG, ODD, PUBLISHED):
        images = noise(2, grid)
        both = shown(lab, images, grid, high=0.0) + shown(lab, images, grid, high=1.0)
        np.testing.assert_allclose(both, images.numpy(), rtol=0, atol=1e-5)


@notices("shift")
def the_inside_or_the_outside_of_a_hard_circle_is_removed(lab: Lab) -> None:
    for grid, radius in ((PUBLISHED, RADIUS), (OBLONG, RADIUS), (ODD, RADIUS), (OBLONG, 0.3), (ODD, 0.21)):
        images = noise(2, grid)
        before = waves(images.double().numpy())
        beyond = lengths(grid) > radius
        certain = np.abs(lengths(grid) - radius) > 1e-9
        for high, kept in ((1.0, beyond), (0.0, ~beyond)):
            after = waves(shown(lab, images, grid, high=high, radius=radius))
            assert np.abs(after[..., ~kept & certain]).max() < 1e-5
            np.testing.assert_allclose(after[..., kept & certain], before[..., kept & certain], rtol=0, atol=1e-4)


def inside_by_rule(height: int, width: int, radius: int) -> np.ndarray:
    """(H, W) bool: frequencies within a circle of `radius` cycles over the height, in whole numbers, one by one."""
    inside = np.zeros((height, width), bool)
    for down, across in itertools.product(range(height), range(width)):
        down_cycles, across_cycles = min(down, height - down), min(across, width - across)
        inside[down, across] = (down_cycles * width) ** 2 + (across_cycles * height) ** 2 < (radius * width) ** 2
    return inside


@notices()
def frequencies_on_the_circle_itself_are_outside(lab: Lab) -> None:
    for tokens in ((14, 14), (8, 8), (8, 16), (4, 4)):
        grid = Grid(*tokens, 4)
        height, width = grid.image_size
        lost = np.abs(waves(shown(lab, noise(1, grid), grid, high=1.0, radius=4 / height)))[0].max(0) < 1e-5
        assert np.array_equal(lost, inside_by_rule(height, width, 4)), tokens
    lost = np.abs(waves(shown(lab, noise(1, PUBLISHED), PUBLISHED, high=1.0)))[0].max(0) < 1e-5
    assert np.array_equal(lost, inside_by_rule(224, 224, 16)) and lost.sum() == 793


@notices("shift")
def sixteen_cycles_of_224_are_removed_by_default(lab: Lab) -> None:
    cycles = [10, 13, 15, 17, 18, 40]
    pixel = torch.arange(224) / 224
    images = torch.stack([torch.cos(2 * torch.pi * number * pixel).expand(1, 224, 224) for number in cycles])
    left = shown(lab, images, PUBLISHED, high=1.0)
    np.testing.assert_allclose(left[:3], 0, rtol=0, atol=1e-5)
    np.testing.assert_allclose(left[3:], images[3:].numpy(), rtol=0, atol=1e-5)


@notices()
def waves_of_equal_length_are_treated_alike(lab: Lab) -> None:
    # On the circle itself: 3-4-5 and 5-12-13 are Pythagorean.
    for side, radius, pairs in ((28, 5, [(0, 5), (3, 4), (4, 3), (5, 0)]), (32, 13, [(0, 13), (5, 12), (12, 5)])):
        grid = Grid(side // 4, side // 4, 4)
        after = waves(shown(lab, noise(1, grid), grid, high=1.0, radius=radius / side))
        kept = [bool((np.abs(after[0, :, down, across]) > 1e-4).all()) for down, across in pairs]
        assert len(set(kept)) == 1, dict(zip(pairs, kept, strict=True))


@notices()
def the_mean_is_a_low_frequency(lab: Lab) -> None:
    images = noise(8, OBLONG)
    low, high = (shown(lab, images, OBLONG, high=share) for share in (0.0, 1.0))
    np.testing.assert_allclose(low.mean((2, 3)), images.double().mean((2, 3)).numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(high.mean((2, 3)), 0, rtol=0, atol=1e-6)
    assert (high < 0).mean() > 0.4, "not clamped at 0"


@notices("share")
def half_of_the_images_lose_their_low_frequencies(lab: Lab) -> None:
    images = torch.ones(4096, 1, *TOKENS.image_size)
    for high, given in ((0.5, {}), (0.2, {"high": 0.2})):
        lost = (np.abs(shown(lab, images, TOKENS, **given)) < 1e-5).all((1, 2, 3))
        assert stats.binomtest(int(lost.sum()), 4096, high).pvalue > 1e-4


@notices("shift")
def the_error_is_taken_over_the_removed_frequencies(lab: Lab) -> None:
    for grid in (OBLONG, ODD, NEARLY):
        images, prediction = noise(6, grid), noise(6, grid, seed=1)
        apart = waves((prediction - images).double().numpy())
        low_kept = np.abs(shown(lab, images, grid).mean((1, 2, 3))) > 1e-3
        removed = (lengths(grid) > RADIUS) == low_kept[:, None, None]
        distances = [np.abs(each[:, lost]).ravel() ** 2 for each, lost in zip(apart, removed, strict=True)]
        # A complex number is two values: their mean squared error is half of the mean squared distance.
        expected = np.concatenate(distances).mean() / 2
        view = lab.view("frequency", images, grid)
        got, _ = pixel_loss(prediction, view, grid, normalise="none", error="l2")
        assert 0 < low_kept.sum() < 6, "both kinds are drawn"
        assert abs(float(got) - expected) < 1e-4 * expected, grid
        assert view.hidden is None


@notices("shift")
def what_is_shown_need_not_be_recovered(lab: Lab) -> None:
    images = noise(16, OBLONG)
    view = lab.view("frequency", images, OBLONG)
    wrong, _ = pixel_loss(images + 3 * view.images, view, OBLONG, normalise="none", error="l2")
    unchanged, _ = pixel_loss(view.images, view, OBLONG, normalise="none", error="l2")
    assert wrong < 1e-9
    assert unchanged > 0.1


test_holds, test_notices = invariants_of(__name__)


def test_bad_parameters_are_refused() -> None:
    for wrong in ({"radius": 0}, {"radius": -1}, {"high": -0.1}, {"high": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            REGISTRY.create("frequency", **wrong)
