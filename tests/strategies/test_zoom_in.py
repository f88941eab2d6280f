"""Beyond Masking's zoomed-in task with mask, against its loss written plainly."""

import torch
import torch.nn.functional as F

from maskbench.api import degrade
from maskbench.core.grid import Grid
from maskbench.objectives.pixel_loss import recovery_loss

GRID = Grid(14, 14, 16)


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(batch, 3, 288, 288, generator=generator, dtype=torch.float64)
    prediction = torch.randn(batch, 3, 224, 224, generator=generator, dtype=torch.float64)
    return source[:, :, 32:256, 32:256].contiguous(), source, prediction


def patch_normalised(images: torch.Tensor) -> torch.Tensor:
    """Every 16 x 16 patch at mean 0 and unbiased variance 1, patch by patch."""
    out = images.clone()
    for image in out:
        for top in range(0, image.shape[1], 16):
            for left in range(0, image.shape[2], 16):
                patch = image[:, top : top + 16, left : left + 16]
                patch.copy_((patch - patch.mean()) / (patch.var() + 1e-6).sqrt())
    return out


def test_loss_is_the_published_one() -> None:
    images, source, prediction = inputs()
    view = degrade("zoom-in-mask", images, patch_size=16, source=source)
    got, _ = recovery_loss(prediction, view, GRID, normalise="patch", error="l2")

    wide = F.adaptive_avg_pool2d(prediction, (288, 288))
    inner = (wide[:, :, 32:256, 32:256] - patch_normalised(images)) ** 2
    hidden = GRID.pixels(view.hidden.double()).expand_as(inner)
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
    images, source, prediction = inputs()
    changed = source.clone()
    changed[:, :, :32] += 5 * torch.rand_like(changed[:, :, :32])
    one = degrade("zoom-in-mask", images, patch_size=16, source=source)
    two = degrade("zoom-in-mask", images, patch_size=16, source=changed)
    assert torch.equal(one.images, two.images)
    losses = [recovery_loss(prediction, view, GRID, normalise="patch", error="l2")[0] for view in (one, two)]
    assert losses[0] != losses[1]


def test_strips_weigh_nothing_inside() -> None:
    images, source, _ = inputs()
    weight = degrade("zoom-in-mask", images, patch_size=16, source=source).terms[1].weight
    assert weight.shape[-2:] == (288, 288)
    assert (weight[..., 32:256, 32:256] == 0).all()
    assert (weight[..., :32, :] > 0).all()
    assert (weight[..., 32:256, 256:] > 0).all()
