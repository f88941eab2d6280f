"""Beyond Masking's blurred task: an impulse in each channel shows that channel's kernel."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, signal, stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

FRAMED = Grid(9, 9, 1)  # a kernel of 7 with one pixel around it
OBLONG = Grid(6, 10, 4)


def responses(lab: Lab, images: int = 1000, **parameters: Any) -> np.ndarray:
    """(B, 3, 9, 9) what becomes of one bright pixel in the middle of each channel."""
    impulses = torch.zeros(images, 3, 9, 9)
    impulses[:, :, 4, 4] = 1
    return lab.view("blur", impulses, FRAMED, **parameters).images.double().numpy()


def kernels(lab: Lab, images: int = 1000, **parameters: Any) -> np.ndarray:
    """(B, 3, 7, 7)"""
    return responses(lab, images, **parameters)[:, :, 1:8, 1:8]


def noise(images: int, grid: Grid) -> Tensor:
    return torch.randn(images, 3, *grid.image_size, generator=torch.Generator().manual_seed(0))


@notices("shift")
def kernels_have_seven_pixels_a_side(lab: Lab) -> None:
    for side in (3, 5, 7):
        reached = responses(lab, 8, side=side) != 0
        edge = (9 - side) // 2
        assert reached[..., edge : 9 - edge, edge : 9 - edge].all()
        assert reached.sum() == 8 * 3 * side * side


@notices("share")
def weights_are_normal_around_a_flat_kernel(lab: Lab) -> None:
    weights = kernels(lab).ravel()
    # 147,000 weights: standard errors of their mean and of their standard deviation, 5 of each.
    assert abs(weights.mean() - 1 / 49) < 5 * 0.02 / 147_000**0.5
    assert abs(weights.std() - 0.02) < 5 * 0.02 / (2 * 147_000) ** 0.5
    assert stats.kstest(weights, stats.norm(1 / 49, 0.02).cdf).pvalue > 1e-4


@notices("share")
def every_weight_is_drawn_for_itself(lab: Lab) -> None:
    deviations = ((kernels(lab) - 1 / 49) / 0.02).reshape(1000, 147)
    within = deviations.T @ deviations / 1000
    between = deviations[:400] @ deviations[:400].T / 147
    # The mean of n products of standard normals exceeds t with probability below exp(-n * (s * t + log(1 - s^2) / 2)),
    # s / (1 - s^2) = t (Chernoff): in all at most 5e-4 for these 10,731 pairs, 7e-5 for these 79,800.
    assert np.abs(np.triu(within, 1)).max() < 6 / 1000**0.5
    assert np.abs(np.triu(between, 1)).max() < 7 / 147**0.5
    # The mean square of a weight over 1,000 images has standard error sqrt(2 / 1000).
    assert np.abs(np.diag(within) - 1).max() < 6 * (2 / 1000) ** 0.5


@notices("shift")
def images_are_convolved_with_zeros_around_them(lab: Lab) -> None:
    images = noise(4, OBLONG)
    shown = lab.view("blur", images, OBLONG).images.numpy()
    for image, got, response in zip(images.double().numpy(), shown, kernels(lab, 4), strict=True):
        for channel in range(3):
            expected = signal.convolve2d(image[channel], response[channel], mode="same")
            np.testing.assert_allclose(got[channel], expected, rtol=0, atol=1e-5)


@notices()
def channels_are_not_mixed(lab: Lab) -> None:
    impulses = torch.zeros(64, 3, 9, 9)
    impulses[:, 1, 4, 4] = 1
    shown = lab.view("blur", impulses, FRAMED).images.double().numpy()
    assert (shown[:, [0, 2]] == 0).all()
    np.testing.assert_allclose(shown[:, 1, 1:8, 1:8], kernels(lab, 64)[:, 1], rtol=0, atol=1e-7)


@notices("share")
def sums_vary_by_seven_times_the_noise(lab: Lab) -> None:
    ones = torch.ones(1000, 3, 7, 7)
    sums = lab.view("blur", ones, Grid(7, 7, 1)).images[:, :, 3, 3].double().numpy()
    # 3,000 sums of 49 weights: N(1, 49 * 0.02^2).
    assert abs(sums.mean() - 1) < 5 * 0.14 / 3000**0.5
    assert abs(sums.std() - 0.14) < 5 * 0.14 / 6000**0.5


@notices("shift")
def renormalised_kernels_sum_to_one_and_keep_their_shape(lab: Lab) -> None:
    plain, divided = kernels(lab, 200), kernels(lab, 200, renormalise=True)
    np.testing.assert_allclose(divided.sum((2, 3)), 1, rtol=0, atol=1e-5)
    np.testing.assert_allclose(divided, plain / plain.sum((2, 3), keepdims=True), rtol=1e-4, atol=1e-7)


@notices("shift")
def without_noise_it_is_a_box(lab: Lab) -> None:
    images = noise(4, OBLONG)
    for side in (3, 7):
        shown = lab.view("blur", images, OBLONG, side=side, noise=0.0).images.numpy()
        expected = ndimage.uniform_filter(images.double().numpy(), (0, 0, side, side), mode="constant")
        np.testing.assert_allclose(shown, expected, rtol=0, atol=1e-5)


@notices("share")
def the_noise_is_the_one_asked_for(lab: Lab) -> None:
    weights = kernels(lab, 1000, side=3, noise=0.1)[:, :, 2:5, 2:5]
    assert abs(weights.mean() - 1 / 9) < 5 * 0.1 / 27_000**0.5
    assert abs(weights.std() - 0.1) < 5 * 0.1 / 54_000**0.5


@notices()
def blurred_images_vary_less(lab: Lab) -> None:
    images = noise(64, OBLONG)
    # White noise keeps the sum of the squared weights, 49 * (1 / 49^2 + 0.02^2) = 4 % on average, of its variance.
    assert (lab.view("blur", images, OBLONG).images.var((2, 3)) < 0.2 * images.var((2, 3))).all()


@notices("flip")
def the_whole_sharp_image_is_recovered(lab: Lab) -> None:
    images = noise(8, OBLONG)
    prediction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    view = lab.view("blur", images, OBLONG)
    got, _ = pixel_loss(prediction, view, OBLONG, normalise="none", error="l2")
    torch.testing.assert_close(got, (prediction - images).square().mean())
    assert view.hidden is None


test_holds, test_notices = invariants_of(__name__)


def test_sides_without_a_middle_are_refused() -> None:
    for side in (2, 4, 8, 1, -7):
        with pytest.raises(ValueError, match="side"):
            REGISTRY.create("blur", side=side)


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise"):
        REGISTRY.create("blur", noise=-0.01)
