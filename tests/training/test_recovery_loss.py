"""The loss of a view in anybody's loop: against a loop over numbers, and against the objective of a run."""

import pytest
import torch
from torch import Tensor

import maskbench
from maskbench.core.grid import Grid
from maskbench.core.view import Term, View, complete
from maskbench.errors import UsageError
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import make_batch

GRID = Grid(2, 3, 2)
RECOVERING = [name for name in REGISTRY.names() if name != "none"]


def images(seed: int, channels: int = 3) -> Tensor:
    return torch.randn(4, channels, *GRID.image_size, generator=torch.Generator().manual_seed(seed))


def plain_loss(prediction: Tensor, target: Tensor, weight: Tensor, error: str) -> float:
    """sum(weight of the pixel's patch * error) / sum(weight), one pixel at a time."""
    errors, weights = 0.0, 0.0
    for image in range(4):
        for channel in range(3):
            for y in range(4):
                for x in range(6):
                    off = abs(prediction[image, channel, y, x].item() - target[image, channel, y, x].item())
                    one = weight[image, y // 2 * 3 + x // 2].item()
                    errors += one * (off if error == "l1" else off * off)
                    weights += one
    return errors / weights


def normalise_by_hand(target: Tensor) -> Tensor:
    """Each patch, over its 12 values, to mean 0 and variance 1 (unbiased, + 1e-6)."""
    normal = target.double().clone()
    for image in normal:
        for y in (0, 2):
            for x in (0, 2, 4):
                patch = image[:, y : y + 2, x : x + 2]
                image[:, y : y + 2, x : x + 2] = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
    return normal


@pytest.mark.parametrize("normalise", ["none", "patch"])
@pytest.mark.parametrize("error", ["l1", "l2"])
def test_it_is_the_mean_error_of_what_is_masked(error: str, normalise: str) -> None:
    view = maskbench.degrade("random", images(0), patch_size=2, ratio=0.5)
    assert view.hidden is not None
    prediction = images(1)
    target = images(0) if normalise == "none" else normalise_by_hand(images(0))
    loss = maskbench.recovery_loss(prediction, view, patch_size=2, normalise=normalise, error=error)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(plain_loss(prediction, target, view.hidden, error), rel=1e-5)
    patches = GRID.patchify(prediction)
    again = maskbench.recovery_loss(patches, view, patch_size=2, normalise=normalise, error=error)  # type: ignore[arg-type]
    assert again.item() == loss.item()
    each = maskbench.patch_losses(prediction, view, patch_size=2, normalise=normalise, error=error)  # type: ignore[arg-type]
    for image in range(4):
        for patch in range(6):
            one = torch.zeros(4, 6)
            one[image, patch] = 1
            assert each[image, patch].item() == pytest.approx(plain_loss(prediction, target, one, error), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", RECOVERING)
def test_every_strategys_view_becomes_a_loss(name: str, dtype: torch.dtype) -> None:
    """As the objectives compute it, with a gradient, for views of every float type."""
    batch = make_batch(REGISTRY.create(name), 4, Grid(8, 8, 4))
    strategy = REGISTRY.create(name)
    plain = batch.view(strategy)
    view = View(
        plain.images.to(dtype), plain.hidden, plain.replaced, plain.thrown, plain.length,
        tuple(Term(t.target.to(dtype), t.weight.to(dtype), t.warp, t.warp_target, t.scale) for t in plain.terms),  # type: ignore[union-attr]
    )  # fmt: skip
    prediction = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected, _ = pixel_loss(prediction, plain, batch.grid, normalise="none", error="l2")
    loss = maskbench.recovery_loss(prediction, view, patch_size=4)
    assert loss.dtype in (torch.float32, torch.float64)
    assert loss.item() == pytest.approx(expected.item(), rel=0.02, abs=1e-6)
    (slope,) = torch.autograd.grad(loss, prediction)
    assert slope.isfinite().all() and slope.abs().max() > 0


@pytest.mark.parametrize(("dtype", "hidden"), [(torch.bfloat16, 1001), (torch.float16, 90_000)], ids=str)
def test_half_precision_counts_every_pixel(dtype: torch.dtype, hidden: int) -> None:
    """Summed in half precision, 1,001 weights would be 1,000, and 90,000 infinite: the loss would be 0."""
    pictures = torch.ones(1, 1, 300, 300, dtype=dtype)
    masked = (torch.arange(90_000) < hidden)[None]
    view = complete(View(pictures, masked), pictures, Grid(300, 300, 1))
    prediction = torch.zeros(1, 1, 300, 300)
    assert pixel_loss(prediction, view, Grid(300, 300, 1), normalise="none", error="l2")[0].item() != 1
    assert maskbench.recovery_loss(prediction, view, patch_size=1).item() == 1


def test_what_cannot_be_a_loss_is_one_clear_line() -> None:
    view = maskbench.degrade("random", images(0), patch_size=2)
    with pytest.raises(
        UsageError, match=r"prediction must be images \(4, 3, 4, 6\) or patches \(4, 6, 12\), is \(4, 6, 3\)"
    ):
        maskbench.recovery_loss(torch.zeros(4, 6, 3), view, patch_size=2)
    with pytest.raises(UsageError, match="nothing to recover"):
        maskbench.recovery_loss(images(1), View(images(0), terms=()), patch_size=2)
    far = maskbench.degrade("frequency", torch.randn(2, 3, 32, 32), patch_size=4)
    with pytest.raises(UsageError, match="another geometry"):
        maskbench.patch_losses(torch.zeros(2, 3, 32, 32), far, patch_size=4)
