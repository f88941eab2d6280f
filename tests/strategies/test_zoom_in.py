"""Beyond Masking's zoomed-in task, without a mask and with one, against its loss written plainly."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskbench.api import degrade
from maskbench.core.grid import Grid
from maskbench.core.view import View
from maskbench.objectives.pixel_loss import Normalise, pixel_loss
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

PUBLISHED = Grid(14, 14, 16)
OBLONG = Grid(6, 10, 16)


def crops(grid: Grid, images: int = 2) -> tuple[Tensor, Tensor]:
    """Random images, and the wider crops around them: 288 px for 224, other sides in proportion."""
    top, left = (round(side * (288 - 224) / 224 / 2) for side in grid.image_size)
    height, width = grid.image_size
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(images, 3, height + 2 * top, width + 2 * left, generator=generator)
    return source[:, :, top : top + height, left : left + width].contiguous(), source


def predicted(images: Tensor) -> Tensor:
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def bins(old: int, new: int) -> np.ndarray:
    """(new, old): row i averages every old pixel that touches new pixel i."""
    weights = np.zeros((new, old))
    for i in range(new):
        first, end = i * old // new, -(-(i + 1) * old // new)
        weights[i, first:end] = 1 / (end - first)
    return weights


def area(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    return bins(pictures.shape[-2], height) @ pictures @ bins(pictures.shape[-1], width).T


def unchanged(pictures: np.ndarray) -> np.ndarray:
    return pictures


def by_patch(pictures: np.ndarray, channels: int = 3) -> np.ndarray:
    """Every patch of `channels` channels at mean 0 and standard deviation 1."""
    out = pictures.copy()
    for image in out:
        for top in range(0, image.shape[1], 16):
            for left in range(0, image.shape[2], 16):
                for first in range(0, 3, channels):
                    patch = image[first : first + channels, top : top + 16, left : left + 16]
                    patch[:] = (patch - patch.mean()) / (patch.std(ddof=1) + 1e-6)
    return out


def by_patch_and_channel(pictures: np.ndarray) -> np.ndarray:
    return by_patch(pictures, channels=1)


def plain_loss(
    prediction: Tensor, images: Tensor, source: Tensor, how: Callable[[np.ndarray], np.ndarray], inner: float
) -> float:
    given, clean, wider = (pictures.double().numpy() for pictures in (prediction, images, source))
    (height, width), wide = clean.shape[2:], wider.shape[2:]
    top, left = (wide[0] - height) // 2, (wide[1] - width) // 2
    seen = area(given, *wide)
    centre = np.mean((seen[..., top : top + height, left : left + width] - how(clean)) ** 2)
    error = (seen - area(how(area(wider, height, width)), *wide)) ** 2
    strips = [
        error[..., :top, :],
        error[..., -top:, :],
        error[..., top:-top, :left],
        error[..., top:-top, -left:],
    ]
    return float(inner * centre + (1 - inner) * sum(strip.mean() for strip in strips))


def loss(prediction: Tensor, view: View, grid: Grid, normalise: Normalise = "none") -> Tensor:
    return pixel_loss(prediction, view, grid, normalise=normalise, error="l2")[0]


@notices("shift")
def the_encoder_sees_the_whole_centre(lab: Lab) -> None:
    images, source = crops(PUBLISHED)
    view = lab.view("zoom-in", images, PUBLISHED, signals={"source": source})
    assert 224 * REGISTRY.get("zoom-in").source_scale == 288
    assert torch.equal(view.images, source[:, :, 32:256, 32:256])
    assert view.hidden is None


@notices("flip", "shift")
def the_loss_joins_the_centre_and_four_strips(lab: Lab) -> None:
    ways: list[tuple[Normalise, Callable[[np.ndarray], np.ndarray]]] = [
        ("none", unchanged), ("patch", by_patch), ("patch-channel", by_patch_and_channel),
    ]  # fmt: skip
    for grid in (PUBLISHED, OBLONG):
        images, source = crops(grid)
        view = lab.view("zoom-in", images, grid, signals={"source": source})
        for normalise, how in ways:
            got = loss(predicted(images), view, grid, normalise)
            expected = plain_loss(predicted(images), images, source, how, inner=0.8)
            assert abs(float(got) - expected) < 1e-5 * expected, (grid, normalise)


@notices("flip", "shift")
def inner_shares_the_loss_out(lab: Lab) -> None:
    images, source = crops(OBLONG)
    for inner in (0.0, 0.3, 1.0):
        view = lab.view("zoom-in", images, OBLONG, signals={"source": source}, inner=inner)
        expected = plain_loss(predicted(images), images, source, unchanged, inner)
        assert abs(float(loss(predicted(images), view, OBLONG)) - expected) < 1e-5 * expected, inner


@notices("shift")
def the_border_is_recovered_and_never_shown(lab: Lab) -> None:
    images, source = crops(PUBLISHED)
    changed = source + 1
    changed[:, :, 32:256, 32:256] = images
    views = [lab.view("zoom-in", images, PUBLISHED, signals={"source": wider}) for wider in (source, changed)]
    one, two = (loss(predicted(images), view, PUBLISHED) for view in views)
    assert all(torch.equal(view.images, images) for view in views)
    assert one != two


@notices()
def the_wider_crop_at_the_size_of_the_image_has_no_border_loss(lab: Lab) -> None:
    images, source = crops(PUBLISHED)
    view = lab.view("zoom-in", images, PUBLISHED, signals={"source": source}, inner=0.0)
    perfect = torch.from_numpy(area(source.numpy(), 224, 224)).float()
    assert loss(perfect, view, PUBLISHED) < 1e-12
    assert loss(perfect.roll(1, 3), view, PUBLISHED) > 0.1
    assert loss(images, view, PUBLISHED) > 0.1


@notices("shift")
def the_centre_teaches_the_inside_and_the_strips_the_outside(lab: Lab) -> None:
    images, source = crops(PUBLISHED)
    # 224 predicted pixels span 288: the border's 32 px are the first 24.9 of them, so that pixel 24 is on both sides.
    for inner, taught in ((1.0, range(24, 200)), (0.0, [*range(25), *range(199, 224)])):
        view = lab.view("zoom-in", images, PUBLISHED, signals={"source": source}, inner=inner)
        prediction = predicted(images).requires_grad_()
        loss(prediction, view, PUBLISHED).backward()
        assert prediction.grad is not None
        middle = (prediction.grad[:, :, 112, :] != 0).all(1).all(0)
        assert middle.nonzero()[:, 0].tolist() == list(taught), inner


test_holds, test_notices = invariants_of(__name__)


def test_a_missing_wider_crop_is_named() -> None:
    images, _ = crops(PUBLISHED)
    with pytest.raises(ValueError, match="source"):
        Lab().view("zoom-in", images, PUBLISHED)


def test_bad_shares_are_refused() -> None:
    for inner in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="inner"):
            REGISTRY.create("zoom-in", inner=inner)


def masked_inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(batch, 3, 288, 288, generator=generator, dtype=torch.float64)
    prediction = torch.randn(batch, 3, 224, 224, generator=generator, dtype=torch.float64)
    return source[:, :, 32:256, 32:256].contiguous(), source, prediction


def patch_normalised(images: Tensor) -> Tensor:
    """Every 16 x 16 patch at mean 0 and unbiased variance 1, patch by patch."""
    out = images.clone()
    for image in out:
        for top in range(0, image.shape[1], 16):
            for left in range(0, image.shape[2], 16):
                patch = image[:, top : top + 16, left : left + 16]
                patch.copy_((patch - patch.mean()) / (patch.var() + 1e-6).sqrt())
    return out


def test_loss_is_the_published_one() -> None:
    images, source, prediction = masked_inputs()
    view = degrade("zoom-in-mask", images, patch_size=16, source=source)
    got, _ = pixel_loss(prediction, view, PUBLISHED, normalise="patch", error="l2")

    wide = F.adaptive_avg_pool2d(prediction, (288, 288))
    inner = (wide[:, :, 32:256, 32:256] - patch_normalised(images)) ** 2
    hidden = PUBLISHED.pixels(view.hidden.double()).expand_as(inner)
    first = (inner * hidden).sum() / hidden.sum()

    whole = patch_normalised(F.adaptive_avg_pool2d(source, (224, 224)))
    outer = (wide - F.adaptive_avg_pool2d(whole, (288, 288))) ** 2
    strips = [
        outer[:, :, :32, :],
        outer[:, :, 256:, :],
        outer[:, :, 32:256, :32],
        outer[:, :, 32:256, 256:],
    ]
    second = sum(strip.mean() for strip in strips)
    torch.testing.assert_close(got, 0.8 * first + 0.2 * second, rtol=1e-5, atol=1e-6)


def test_border_changes_the_loss_and_not_the_input() -> None:
    images, source, prediction = masked_inputs()
    changed = source.clone()
    changed[:, :, :32] += 5 * torch.rand_like(changed[:, :, :32])
    one = degrade("zoom-in-mask", images, patch_size=16, source=source)
    two = degrade("zoom-in-mask", images, patch_size=16, source=changed)
    assert torch.equal(one.images, two.images)
    losses = [pixel_loss(prediction, view, PUBLISHED, normalise="patch", error="l2")[0] for view in (one, two)]
    assert losses[0] != losses[1]


def test_strips_weigh_nothing_inside() -> None:
    images, source, _ = masked_inputs()
    weight = degrade("zoom-in-mask", images, patch_size=16, source=source).terms[1].weight
    assert weight.shape[-2:] == (288, 288)
    assert (weight[..., 32:256, 32:256] == 0).all()
    assert (weight[..., :32, :] > 0).all()
    assert (weight[..., 32:256, 256:] > 0).all()
