"""Denoising (l-DAE, DDAE): levels, weights and principal components, the latter against numpy's decomposition.

What becomes of black images is the noise alone, and what white ones have beside it is the signal: both draw the same.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import View
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

TINY = Grid(2, 2, 2)
SQUARE = Grid(4, 4, 4)
OBLONG = Grid(4, 6, 4)
RANDOM = ("linear", "vp", "ddpm", "edm")
SCHEDULES = ("fixed", *RANDOM)


class Drawn(NamedTuple):
    """Of every image: what the signal is multiplied by (B,), the condition (B,), the loss weight (B,), the noise."""

    signal: np.ndarray
    level: np.ndarray
    weight: np.ndarray
    noise: np.ndarray


def drawn(lab: Lab, schedule: str, images: int = 4000, grid: Grid = TINY, **parameters: Any) -> Drawn:
    """In pixel space."""
    black = torch.zeros(images, 3, *grid.image_size)
    dark, bright = (
        lab.view("noise", picture, grid, space="pixel", schedule=schedule, **parameters)
        for picture in (black, black + 1)
    )
    signal = (bright.images - dark.images).double().mean((1, 2, 3)).numpy()
    return Drawn(signal, level_of(dark), weight_of(dark), dark.images.double().numpy())


def level_of(view: View) -> np.ndarray:
    assert view.condition is not None
    assert view.condition.shape == (len(view.images),)
    return view.condition.double().numpy()


def weight_of(view: View) -> np.ndarray:
    weight = view.terms[0].weight
    assert weight is not None
    return weight.double().flatten(1)[:, 0].numpy()


def gaussian(images: int, grid: Grid, seed: int = 0) -> Tensor:
    return torch.randn(images, 3, *grid.image_size, generator=torch.Generator().manual_seed(seed))


def alpha_bar() -> np.ndarray:
    """DDPM's share of signal left after steps 1 to 1000."""
    left, kept = 1.0, []
    for step in range(1000):
        left *= 1 - (1e-4 + (2e-2 - 1e-4) * step / 999)
        kept.append(left)
    return np.array(kept)


# Levels.


@notices("share")
def levels_are_drawn_as_published(lab: Lab) -> None:
    uniform, normal = stats.uniform(0, 1).cdf, stats.norm(-1.2, 1.2).cdf
    for space in ("pixel", "patch-pca"):
        linear, vp, ddpm, edm = (
            level_of(lab.view("noise", 4000, TINY, space=space, schedule=schedule)) for schedule in RANDOM
        )
        assert stats.kstest(linear / 2**0.5, uniform).pvalue > 1e-4
        assert stats.kstest(1 - vp**2, uniform).pvalue > 1e-4
        table = 1 - alpha_bar()
        step = np.abs(ddpm[:, None] ** 2 - table).argmin(1)
        np.testing.assert_allclose(ddpm**2, table[step], rtol=0, atol=1e-6)
        assert stats.chisquare(np.bincount(step // 50, minlength=20)).pvalue > 1e-4
        # EDM's data have standard deviation 0.5; data of 1 take twice the sigma.
        assert stats.kstest(np.log(edm / 2), normal).pvalue > 1e-4


@notices()
def levels_are_those_asked_for(lab: Lab) -> None:
    for space in ("pixel", "patch-pca"):
        for sigma in (3**-0.5, 75 / 255, 2.0):
            fixed, linear = (
                level_of(lab.view("noise", 4000, TINY, space=space, schedule=schedule, sigma=sigma))
                for schedule in ("fixed", "linear")
            )
            np.testing.assert_allclose(fixed, sigma, rtol=1e-6)
            assert stats.kstest(linear / sigma, stats.uniform(0, 1).cdf).pvalue > 1e-4


@notices()
def only_vp_and_ddpm_scale_the_signal(lab: Lab) -> None:
    for schedule in SCHEDULES:
        signal, level, _, _ = drawn(lab, schedule)
        if schedule in ("vp", "ddpm"):
            np.testing.assert_allclose(signal**2 + level**2, 1, rtol=0, atol=1e-5)
        else:
            # float32 next to noise of up to 100 sigma under EDM's long tail
            np.testing.assert_allclose(signal, 1, rtol=0, atol=1e-4)


@notices("share")
def the_condition_is_the_noises_standard_deviation(lab: Lab) -> None:
    for schedule in SCHEDULES:
        _, level, _, noise = drawn(lab, schedule, 2000, SQUARE)
        # 768 values: the mean square has standard error sqrt(2 / 768) of itself.
        assert np.abs((noise**2).mean((1, 2, 3)) / level**2 - 1).max() < 7 * (2 / 768) ** 0.5
        if schedule != "fixed":
            assert len(np.unique(level)) > 800, "images have levels of their own, up to 1,000 steps under ddpm"


@notices()
def signal_to_noise_falls_with_the_level(lab: Lab) -> None:
    for schedule in RANDOM:
        signal, level, _, noise = drawn(lab, schedule, 1000, SQUARE)
        ratio = np.log(signal**2 / (noise**2).mean((1, 2, 3)))
        groups = ratio[level.argsort()].reshape(20, 50).mean(1)
        # Standard error of a difference: sqrt(2 / 768) * sqrt(2 / 50) = 0.01; the closest groups, of the highest linear
        # levels, are 0.1 apart.
        assert (np.diff(groups) < 0).all(), schedule


# Pixels.


@notices("shift")
def without_noise_images_are_unchanged(lab: Lab) -> None:
    images = gaussian(16, SQUARE)
    for schedule in ("fixed", "linear"):
        shown = lab.view("noise", images, SQUARE, space="pixel", schedule=schedule, sigma=1e-6).images
        assert (shown - images).abs().max() < 1e-5


@notices("share")
def noise_is_normal_and_white(lab: Lab) -> None:
    _, _, _, noise = drawn(lab, "fixed", sigma=2.0)
    values = noise.reshape(4000, 48) / 2
    assert stats.kstest(values.ravel(), stats.norm.cdf).pvalue > 1e-4
    within, between = values.T @ values / 4000, values[:500] @ values[:500].T / 48
    # The mean of n products of standard normals exceeds t with probability below exp(-n * (s * t + log(1 - s^2) / 2)),
    # s / (1 - s^2) = t (Chernoff): in all at most 4e-5 for these 1,128 pairs, 3e-7 for these 124,750.
    assert np.abs(np.triu(within, 1)).max() < 6 / 4000**0.5
    assert np.abs(np.triu(between, 1)).max() < 9 / 48**0.5


@notices("shift")
def the_image_is_scaled_and_noise_added(lab: Lab) -> None:
    images = gaussian(64, SQUARE)
    for schedule in SCHEDULES:
        signal, _, _, noise = drawn(lab, schedule, 64, SQUARE)
        shown = lab.view("noise", images, SQUARE, space="pixel", schedule=schedule).images.numpy()
        expected = signal[:, None, None, None] * images.numpy() + noise
        np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-5)


@notices("shift")
def variance_is_preserved_and_the_signal_is_the_correlation(lab: Lab) -> None:
    images = gaussian(1000, SQUARE)
    flat = images.flatten(1).double().numpy()
    flat /= np.sqrt((flat**2).mean(1, keepdims=True))
    for schedule in ("vp", "ddpm"):
        view = lab.view("noise", torch.from_numpy(flat).view(images.shape), SQUARE, space="pixel", schedule=schedule)
        shown = view.images.flatten(1).double().numpy()
        noise = level_of(view)
        signal = np.sqrt(1 - noise**2)
        # With x of mean square 1, <x_t, x> / P = signal + noise * N(0, 1 / P), and the mean square of x_t is
        # 1 + noise^2 * (chi2 / P - 1) + 2 * signal * noise * N(0, 1 / P), of variance at most 2 / P; P = 768.
        assert (np.abs((shown * flat).mean(1) - signal) < 6 * noise / 768**0.5 + 1e-6).all()
        assert np.abs((shown**2).mean(1) - 1).max() < 6 * (2 / 768) ** 0.5


@notices("share")
def weights_are_as_published(lab: Lab) -> None:
    for schedule in SCHEDULES:
        signal, level, weight, _ = drawn(lab, schedule)
        sigma = level / 2
        expected = {
            "fixed": 1 / (1 + level**2),
            "linear": 1 / (1 + level**2),
            "vp": signal**2,
            "ddpm": signal**2,
            # EDM's, whose errors are of data of standard deviation 0.5: a quarter of those of data of 1.
            "edm": (sigma**2 + 0.25) / (0.5 * sigma) ** 2 / 4,
        }[schedule]
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)
        if schedule != "fixed":
            assert weight.std() > 0.1 * weight.mean(), "images have weights of their own"


@notices("share")
def images_count_by_their_weights(lab: Lab) -> None:
    images, prediction = gaussian(32, SQUARE), gaussian(32, SQUARE, seed=1) * torch.arange(32.0).view(32, 1, 1, 1)
    view = lab.view("noise", images, SQUARE, space="pixel")
    errors = ((prediction - images) ** 2).mean((1, 2, 3)).double().numpy()
    expected = np.average(errors, weights=1 / (1 + drawn(Lab(), "linear", 32, SQUARE).level ** 2))
    got, _ = pixel_loss(prediction, view, SQUARE, normalise="none", error="l2")
    assert abs(float(got) - expected) < 1e-5 * expected
    assert view.hidden is None


# Principal components of patches: 2 channels of 4 x 4 pixels.


class Components(NamedTuple):
    mean: np.ndarray
    axes: np.ndarray
    """(32, 32), a component a row, the largest first."""
    variance: np.ndarray


def texture(images: int = 256, seed: int = 0) -> Tensor:
    """Smooth random images, whose patches have components of very different size."""
    white = np.random.default_rng(seed).standard_normal((images, 2, *OBLONG.image_size))
    smooth = 4 * ndimage.gaussian_filter(white, (0, 0, 2, 1), mode="wrap") + 0.1 * white
    smooth[:, 1] += 0.5 * smooth[:, 0]
    return torch.from_numpy(smooth + 0.3).float()


def patches(images: Tensor, side: int = 4) -> np.ndarray:
    """(B, N, C * side * side) float64, a patch's values ordered by channel, row, column."""
    cut = [
        images[:, :, top : top + side, left : left + side].flatten(1)
        for top in range(0, images.shape[2], side)
        for left in range(0, images.shape[3], side)
    ]
    return torch.stack(cut, 1).double().numpy()


def components(images: Tensor) -> Components:
    flat = patches(images).reshape(-1, 32)
    mean = flat.mean(0)
    _, size, axes = np.linalg.svd(flat - mean, full_matrices=False)
    return Components(mean, axes, size**2 / len(flat))


def along(values: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return values @ axes.T


@notices("shift")
def what_is_left_lies_in_the_span_of_the_first_components(lab: Lab) -> None:
    images = texture()
    mean, axes, _ = components(images)
    clean = patches(images)
    for schedule, kept in (("linear", 5), ("vp", 11)):
        shown = patches(lab.view("noise", images, OBLONG, schedule=schedule, components=kept).images)
        assert np.abs(along(shown - mean, axes[kept:])).max() < 1e-4
        # The same of the residual: x_t - x is -(x - mean) off the span.
        np.testing.assert_allclose(
            along(shown - clean, axes[kept:]), -along(clean - mean, axes[kept:]), rtol=0, atol=1e-4
        )
        assert np.abs(along(shown - clean, axes[:kept])).max() > 0.1


@notices("shift")
def without_noise_the_image_is_rebuilt_from_its_first_components(lab: Lab) -> None:
    images = texture()
    mean, axes, _ = components(images)
    for kept in (1, 5, 31):
        shown = lab.view("noise", images, OBLONG, schedule="fixed", sigma=1e-6, components=kept).images
        rebuilt = along(patches(images) - mean, axes[:kept]) @ axes[:kept] + mean
        np.testing.assert_allclose(patches(shown), rebuilt, rtol=0, atol=1e-4)


@notices("shift")
def with_all_components_nothing_is_lost(lab: Lab) -> None:
    images = texture()
    for kept in (32, 1000):
        shown = lab.view("noise", images, OBLONG, schedule="fixed", sigma=1e-6, components=kept).images
        assert (shown - images).abs().max() < 1e-4


@notices("shift", "share")
def noise_along_the_components_is_normal_and_white(lab: Lab) -> None:
    images = texture()
    mean, axes, variance = components(images)
    latent = along(patches(images) - mean, axes[:5])
    unit = variance[:5].mean() ** 0.5
    for schedule in ("fixed", "vp"):
        view = lab.view("noise", images, OBLONG, schedule=schedule, components=5)
        level = level_of(view)[:, None, None]
        signal = np.sqrt(1 - level**2) if schedule == "vp" else 1
        noise = (along(patches(view.images) - mean, axes[:5]) - signal * latent) / (level * unit)
        noise = noise[level[:, 0, 0] > 0.01].reshape(-1, 120)
        # White noise is white along any axes. By Chernoff's bound as above: at most 3e-6 for these 7,140 pairs, 5e-5
        # for these 32,640.
        within, between = noise.T @ noise / len(noise), noise @ noise.T / 120
        assert len(noise) > 240
        assert np.abs(np.triu(within, 1)).max() < 7 / len(noise) ** 0.5
        assert np.abs(np.triu(between, 1)).max() < 7 / 120**0.5
        assert stats.kstest(noise.ravel(), stats.norm.cdf).pvalue > 1e-4


@notices("shift")
def errors_off_the_components_count_for_a_tenth(lab: Lab) -> None:
    images = texture()
    _, axes, _ = components(images)
    prediction = texture(seed=1)
    apart = along(patches(prediction) - patches(images), axes) ** 2
    for schedule, given, kept, rest in (
        ("linear", {"components": 5}, 5, 0.1),
        ("vp", {"components": 9, "rest": 0.0}, 9, 0.0),
        ("edm", {"components": 2, "rest": 1.0}, 2, 1.0),
    ):
        view = lab.view("noise", images, OBLONG, schedule=schedule, **given)
        level = level_of(view)
        level_weight = {"linear": 1 / (1 + level**2), "vp": 1 - level**2, "edm": (level**2 + 1) / level**2}[schedule]
        axis_weight = np.where(np.arange(32) < kept, 1, rest)
        expected = np.average(apart, weights=np.broadcast_to(level_weight[:, None, None] * axis_weight, apart.shape))
        got, _ = pixel_loss(prediction, view, OBLONG, normalise="none", error="l2")
        assert abs(float(got) - expected) < 1e-3 * expected, schedule
        assert view.hidden is None


@notices()
def thirty_two_components_are_kept_by_default(lab: Lab) -> None:
    images = gaussian(128, SQUARE)
    shown = patches(lab.view("noise", images, Grid(2, 2, 8)).images, 8) - patches(images, 8).mean((0, 1))
    assert np.linalg.matrix_rank(shown.reshape(512, 192), rtol=1e-5) == 32


test_holds, test_notices = invariants_of(__name__)


def test_bad_parameters_are_refused() -> None:
    for wrong in ({"sigma": 0}, {"components": 0}, {"rest": -0.1}, {"schedule": "cosine"}, {"space": "fourier"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            REGISTRY.create("noise", **wrong)


def test_errors_of_components_are_not_rounded_by_autocast() -> None:
    clean = 3 * gaussian(64, SQUARE)
    view = Lab().view("noise", clean, SQUARE)
    prediction = clean + 0.01 * gaussian(64, SQUARE, 1)
    exact, _ = pixel_loss(prediction, view, SQUARE, normalise="none", error="l2")
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = pixel_loss(prediction, view, SQUARE, normalise="none", error="l2")
    assert found.item() == exact.item()
