"""Beyond Masking's zoomed-out task, against numpy's symmetric padding of an image resized by area."""

from collections.abc import Callable
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
COLUMN = Grid(14, 1, 16)  # 224 rows, cheaply
OBLONG = Grid(6, 10, 4)


def bins(old: int, new: int) -> np.ndarray:
    """(new, old): row i averages every old pixel that touches new pixel i."""
    weights = np.zeros((new, old))
    for i in range(new):
        first, end = i * old // new, -(-(i + 1) * old // new)
        weights[i, first:end] = 1 / (end - first)
    return weights


def framed(picture: np.ndarray, small: tuple[int, int], top: int, left: int) -> np.ndarray:
    """(C, H, W) shrunk to `small`, `top` and `left` rows and columns of mirror image before it, the rest after it."""
    height, width = picture.shape[1:]
    shrunk = bins(height, small[0]) @ picture @ bins(width, small[1]).T
    around = [(0, 0), (top, height - small[0] - top), (left, width - small[1] - left)]
    return np.pad(shrunk, around, mode="symmetric")


def pictures(count: int, grid: Grid) -> Tensor:
    """The place down, the place across, and noise: the first two tell where the small image has been put."""
    height, width = grid.image_size
    down = torch.arange(height).float()[:, None].expand(count, 1, height, width)
    across = torch.arange(width).float().expand(count, 1, height, width)
    noise = torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(0))
    return torch.cat([down, across, noise], 1)


def places(shown: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(B,) row and column of the small image's first pixel: the last place of the least coordinate."""
    down, across = shown[:, 0, :, 0].flip(1).numpy(), shown[:, 1, 0, :].flip(1).numpy()
    return down.shape[1] - 1 - down.argmin(1), across.shape[1] - 1 - across.argmin(1)


def frame_matches(lab: Lab, grid: Grid, small: tuple[int, int], **parameters: Any) -> None:
    images = pictures(8, grid)
    shown = lab.view("zoom-out", images, grid, scope="image", **parameters).images
    for image, got, top, left in zip(images.double().numpy(), shown.numpy(), *places(shown), strict=True):
        # Mirrored twice, an image is itself again: in a wide frame the last copy is as good as the first.
        expected = framed(image, small, int(top % (2 * small[0])), int(left % (2 * small[1])))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@notices("shift")
def the_frame_mirrors_the_image(lab: Lab) -> None:
    frame_matches(lab, PUBLISHED, (160, 160))
    frame_matches(lab, OBLONG, (17, 29))


@notices("shift")
def a_small_image_is_mirrored_over_and_over(lab: Lab) -> None:
    frame_matches(lab, OBLONG, (5, 8), share=0.2)
    frame_matches(lab, OBLONG, (1, 1), share=0.02)


@notices("shift")
def a_share_that_rounds_to_the_whole_changes_nothing(lab: Lab) -> None:
    images = pictures(4, OBLONG)
    assert torch.equal(lab.view("zoom-out", images, OBLONG, share=0.999).images, images)


@notices("share")
def rows_are_uniform_below_64(lab: Lab) -> None:
    # 224 - 160 = 64: at least one row of frame is left below.
    top, _ = places(lab.view("zoom-out", pictures(2048, COLUMN), COLUMN, scope="image").images)
    counts = np.bincount(top, minlength=64)
    assert len(counts) == 64
    assert stats.chisquare(counts).pvalue > 1e-4


@notices("share")
def rows_and_columns_are_independent(lab: Lab) -> None:
    # 14 - round(14 * 160 / 224) = 4 places down and across.
    top, left = places(lab.view("zoom-out", pictures(4096, TOKENS), TOKENS, scope="image").images)
    counts = np.bincount(4 * top + left, minlength=16)
    assert len(counts) == 16
    assert stats.chisquare(counts).pvalue > 1e-4


@notices()
def a_batch_shares_one_place_that_changes_with_every_step(lab: Lab) -> None:
    image = pictures(3, COLUMN)
    tops = [places(lab.view("zoom-out", image, COLUMN, step=step).images)[0] for step in range(640)]
    assert all(top.min() == top.max() for top in tops)
    counts = np.bincount([top[0] for top in tops], minlength=64)
    assert len(counts) == 64
    assert stats.chisquare(counts).pvalue > 1e-4


def by_patch(images: np.ndarray) -> np.ndarray:
    """Every 4 x 4 patch at mean 0 and standard deviation 1."""
    out = images.copy()
    for image in out:
        for top in range(0, image.shape[1], 4):
            for left in range(0, image.shape[2], 4):
                patch = image[:, top : top + 4, left : left + 4]
                patch[:] = (patch - patch.mean()) / (patch.std(ddof=1) + 1e-6)
    return out


@notices("flip", "shift")
def the_prediction_is_compared_where_the_image_is_shown(lab: Lab) -> None:
    images = pictures(4, OBLONG)
    prediction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    ways: tuple[tuple[Any, Callable[[np.ndarray], np.ndarray]], ...] = (("none", np.array), ("patch", by_patch))
    for scope in ("image", "batch"):
        view = lab.view("zoom-out", images, OBLONG, scope=scope)
        for normalise, how in ways:
            apart = prediction.double().numpy() - how(images.double().numpy())
            at = zip(apart, *places(view.images), strict=True)
            # Mirror images are compared too, so that a pixel counts as often as it is shown.
            expected = np.mean([framed(each, (17, 29), int(top), int(left)) ** 2 for each, top, left in at])
            got, _ = pixel_loss(prediction, view, OBLONG, normalise=normalise, error="l2")
            assert abs(float(got) - expected) < 1e-5 * expected, (scope, normalise)


@notices("flip")
def only_the_image_at_full_size_has_no_loss(lab: Lab) -> None:
    images = pictures(4, OBLONG)
    view = lab.view("zoom-out", images, OBLONG)
    perfect, _ = pixel_loss(images, view, OBLONG, normalise="none", error="l2")
    copied, _ = pixel_loss(view.images, view, OBLONG, normalise="none", error="l2")
    assert perfect == 0
    assert copied > 1


test_holds, test_notices = invariants_of(__name__)


def test_bad_shares_are_refused() -> None:
    for share in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share"):
            REGISTRY.create("zoom-out", share=share)
