"""Images in half or double precision: the view is of their type, and as in single precision up to rounding."""

from typing import Any

import pytest
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from maskbench.training.degrade import degrade

GRID = Grid(4, 6, 8)
SCHEDULES = ("linear", "fixed", "vp", "ddpm", "edm")
types = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)


def scenes(dtype: torch.dtype) -> Tensor:
    """(8, 3, H, W): large blobs with noise, so that patches near each other look alike."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = torch.randn(8, 3, 4, 6, generator=generator), torch.randn(8, 3, 32, 48, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, GRID.image_size, mode="bilinear")
    return (smooth + 0.1 * fine).to(dtype)


def as_close_as(dtype: torch.dtype, found: Tensor, expected: Tensor) -> bool:
    """Within one rounding of the type at the largest value, or of sums in float32."""
    error = max(torch.finfo(dtype).eps, 1e-5) * float(expected.abs().max())
    return bool((found.double() - expected.double()).abs().max() <= error)


@types
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("space", ["patch-pca", "pixel"])
def test_noise(space: str, schedule: str, dtype: torch.dtype) -> None:
    strategy, images = REGISTRY.create("noise", space=space, schedule=schedule), scenes(dtype)
    fitted = strategy.build(images.float(), GRID, 0)
    view, plain = (degrade(strategy, given, patch_size=8, module=fitted) for given in (images, images.float()))
    term, plain_term = view.terms[0], plain.terms[0]
    assert view.images.dtype == term.weight.dtype == term.target.dtype == dtype
    assert as_close_as(dtype, view.images, plain.images)
    if space == "patch-pca":
        assert as_close_as(dtype, term.warp(images), plain_term.warp(images.float()))
    assert degrade(strategy, images, patch_size=8).images.dtype == dtype  # fitted to images of this type


@types
@pytest.mark.parametrize("given", [{}, {"threshold": 0.5}, {"exact": True}], ids=str)
def test_cluster(given: dict[str, Any], dtype: torch.dtype) -> None:
    images = scenes(dtype)
    view, plain = (degrade("cluster", exact, patch_size=8, **given) for exact in (images, images.float()))
    assert view.images.dtype == view.terms[0].weight.dtype == dtype
    assert (view.hidden != plain.hidden).sum() <= 2  # rounding may put a patch on the other side of the threshold


@types
def test_super_resolution(dtype: torch.dtype) -> None:
    images = scenes(dtype)
    view, plain = (degrade("super-resolution", exact, patch_size=8) for exact in (images, images.float()))
    assert view.images.dtype == view.terms[0].target.dtype == dtype
    assert as_close_as(dtype, view.images, plain.images)
