"""MFM's deblurring baseline: an impulse shows the kernel, a Gaussian cut off at a random radius."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

WIDE = Grid(11, 11, 4)  # 44 px: no kernel that reaches the middle one touches the border
OBLONG = Grid(6, 10, 4)


def kernel(radius: int, sigma: float = 5.0) -> np.ndarray:
    side = range(-radius, radius + 1)
    weights = np.array([[np.exp(-(down**2 + across**2) / (2 * sigma**2)) for across in side] for down in side])
    return weights / weights.sum()


def responses(lab: Lab, images: int = 64, channels: int = 1, **parameters: Any) -> np.ndarray:
    """(B, C, 44, 44) what becomes of one bright pixel."""
    impulses = torch.zeros(images, channels, *WIDE.image_size)
    impulses[:, :, 22, 22] = 1
    return lab.view("deblur", impulses, WIDE, **parameters).images.double().numpy()


def radii(response: np.ndarray) -> np.ndarray:
    """(B,) pixels that the bright one has spread upwards."""
    return 22 - (response[:, 0].max(2) > 0).argmax(1)


def noise(images: int, grid: Grid = OBLONG, seed: int = 0) -> Tensor:
    return torch.randn(images, 3, *grid.image_size, generator=torch.Generator().manual_seed(seed))


@notices("shift")
def an_impulse_becomes_a_gaussian_cut_off_at_a_square(lab: Lab) -> None:
    cases: list[tuple[float, dict[str, Any]]] = [
        (5.0, {}), (1.5, {"sigma": 1.5}), (40.0, {"sigma": 40.0, "smallest": 1, "largest": 6}),
    ]  # fmt: skip
    for sigma, given in cases:
        shown = responses(lab, channels=3, **given)
        for image, radius in zip(shown, radii(shown), strict=True):
            expected = np.pad(kernel(int(radius), sigma), (22 - radius, 21 - radius))
            for channel in image:
                np.testing.assert_allclose(channel, expected, rtol=1e-4, atol=1e-9)


@notices("share")
def radii_of_3_to_10_are_equally_likely(lab: Lab) -> None:
    counts = np.bincount(radii(responses(lab, 1600)), minlength=11)
    assert (counts[:3] == 0).all()
    assert len(counts) == 11
    assert stats.chisquare(counts[3:]).pvalue > 1e-4


@notices("share")
def radii_are_those_asked_for(lab: Lab) -> None:
    counts = np.bincount(radii(responses(lab, 600, smallest=2, largest=4)), minlength=5)
    assert counts[2:].sum() == 600
    assert stats.chisquare(counts[2:]).pvalue > 1e-4
    assert (radii(responses(lab, 64, smallest=5, largest=5)) == 5).all()


@notices("shift")
def at_the_border_the_kernel_counts_pixels_that_exist(lab: Lab) -> None:
    images = noise(12)
    shown = lab.view("deblur", images, OBLONG).images.numpy()
    ones = np.ones(OBLONG.image_size)
    for image, got, radius in zip(images.double().numpy(), shown, radii(responses(lab, 12)), strict=True):
        weights = kernel(int(radius))
        existing = ndimage.convolve(ones, weights, mode="constant")
        for channel in range(3):
            expected = ndimage.convolve(image[channel], weights, mode="constant") / existing
            np.testing.assert_allclose(got[channel], expected, rtol=0, atol=1e-5)


@notices()
def flat_images_stay_as_they_are(lab: Lab) -> None:
    images = torch.full((256, 1, 12, 20), 1.7)
    assert (lab.view("deblur", images, Grid(3, 5, 4)).images - 1.7).abs().max() < 1e-5


@notices("share")
def larger_kernels_blur_more(lab: Lab) -> None:
    images = torch.randn(1, 1, *WIDE.image_size, generator=torch.Generator().manual_seed(0)).expand(400, -1, -1, -1)
    left = lab.view("deblur", images, WIDE).images.var((1, 2, 3)).numpy()
    radius = radii(responses(lab, 400))
    means = [left[radius == each].mean() for each in np.unique(radius)]
    assert len(means) == 8
    assert (np.diff(means) < 0).all()


@notices("flip")
def the_whole_sharp_image_is_recovered(lab: Lab) -> None:
    images, prediction = noise(8), noise(8, seed=1)
    view = lab.view("deblur", images, OBLONG)
    got, _ = pixel_loss(prediction, view, OBLONG, normalise="none", error="l2")
    torch.testing.assert_close(got, (prediction - images).square().mean())
    assert view.hidden is None


test_holds, test_notices = invariants_of(__name__)


def test_a_smallest_radius_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed"):
        REGISTRY.create("deblur", smallest=5, largest=4)


def test_bad_parameters_are_refused() -> None:
    for wrong in ({"sigma": 0}, {"smallest": 0}, {"largest": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            REGISTRY.create("deblur", **wrong)
