"""Beyond Masking's de-colorized task: an image with one bright channel at each pixel shows that channel's weight."""

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.objectives.pixel_loss import pixel_loss
from tests.helpers.invariants import Lab, invariants_of, notices

LINE = Grid(1, 6, 1)
OBLONG = Grid(6, 10, 4)


def weights(lab: Lab, images: int = 4000, channels: int = 3, **parameters: Any) -> np.ndarray:
    """(B, C): what becomes of pixel c, which is bright in channel c alone."""
    basis = torch.zeros(images, channels, 1, 6)
    basis[:, range(channels), 0, range(channels)] = 1
    return lab.view("decolor", basis, LINE, **parameters).images[:, 0, 0, :channels].double().numpy()


def noise(images: int = 64, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(images, channels, *OBLONG.image_size, generator=torch.Generator().manual_seed(seed))


def are_uniform(drawn: np.ndarray) -> None:
    channels = drawn.shape[1]
    assert drawn.min() >= 0
    assert drawn.max() < 2 / channels
    for weight in drawn.T:
        assert stats.kstest(weight, stats.uniform(0, 2 / channels).cdf).pvalue > 1e-4


@notices("share")
def weights_are_uniform_and_sum_to_one_on_average(lab: Lab) -> None:
    for channels in (1, 3, 5):
        drawn = weights(lab, channels=channels, scope="image")
        are_uniform(drawn)
        # Uniform below w: standard deviation w / sqrt(12); the sum of C of them, the mean of 4,000 sums.
        error = (2 / channels) * (channels / 12 / 4000) ** 0.5
        assert abs(drawn.sum(1).mean() - 1) < 5 * error


@notices("share")
def weights_are_independent(lab: Lab) -> None:
    drawn = weights(lab, scope="image")
    third = np.floor(4.5 * drawn).astype(int)  # thirds of [0, 2 / 3)
    assert stats.chisquare(np.bincount(third @ [9, 3, 1], minlength=27)).pvalue > 1e-4


@notices()
def a_batch_shares_weights_that_change_with_every_step(lab: Lab) -> None:
    drawn = [weights(lab, 4, step=step) for step in range(1000)]
    assert all((batch == batch[0]).all() for batch in drawn)
    are_uniform(np.stack([batch[0] for batch in drawn]))


@notices("shift")
def every_pixel_is_a_mixture_of_its_own_channels(lab: Lab) -> None:
    for scope in ("image", "batch"):
        images = noise()
        shown = lab.view("decolor", images, OBLONG, scope=scope).images.numpy()
        mixed = np.einsum("bc,bchw->bhw", weights(lab, 64, scope=scope), images.double().numpy())
        for channel in range(3):
            np.testing.assert_allclose(shown[:, channel], mixed, rtol=0, atol=1e-5)


@notices()
def no_colour_is_left(lab: Lab) -> None:
    for channels in (1, 3, 5):
        shown = lab.view("decolor", noise(channels=channels), OBLONG).images
        assert shown.shape[1] == channels
        assert (shown == shown[:, :1]).all()


@notices()
def mixing_is_linear(lab: Lab) -> None:
    for scope in ("image", "batch"):
        one, two = noise(seed=1), noise(seed=2)
        joint, first, second = (
            lab.view("decolor", images, OBLONG, scope=scope).images for images in (3 * one - two, one, two)
        )
        assert (joint - (3 * first - second)).abs().max() < 1e-5


@notices("flip")
def the_whole_coloured_image_is_recovered(lab: Lab) -> None:
    images, prediction = noise(seed=0), noise(seed=1)
    view = lab.view("decolor", images, OBLONG)
    got, _ = pixel_loss(prediction, view, OBLONG, normalise="none", error="l2")
    torch.testing.assert_close(got, (prediction - images).square().mean())
    assert view.hidden is None


test_holds, test_notices = invariants_of(__name__)
