"""Cluster masking: whole neighbourhoods of a few uniform anchors, by numpy's correlation coefficients."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

PATCHES = Grid(14, 14, 4)
SMALL = Grid(8, 8, 4)


def scenes(images: int, grid: Grid, channels: int = 3) -> Tensor:
    """Images of large blobs, so that patches near each other look alike, with noise, so that no two are equal."""
    generator = torch.Generator().manual_seed(1)
    height, width = grid.image_size
    coarse = torch.randn(images, channels, height // 8, width // 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth + 0.1 * torch.randn(images, channels, height, width, generator=generator)


def correlations(image: Tensor, grid: Grid) -> np.ndarray:
    """(N, N) Pearson correlation of the patches of an image (C, H, W), cut out one by one."""
    side = grid.patch
    corners = [(row * side, col * side) for row in range(grid.rows) for col in range(grid.cols)]
    patches = [image[:, top : top + side, left : left + side].double().flatten().numpy() for top, left in corners]
    return np.corrcoef(np.stack(patches))


def anchors_of(images: Tensor, grid: Grid) -> Tensor:
    """(B, N): with a threshold that nothing exceeds, only the anchors are hidden."""
    return Lab().hidden("cluster", images, grid, threshold=1.0, least=0.0)


def chance(image: Tensor, grid: Grid, threshold: float, anchors: int) -> Tensor:
    """(N,) probability of being hidden: that one of the patches alike, or the patch itself, is an anchor."""
    alike = (correlations(image, grid) > threshold).sum(1)
    whole = math.comb(grid.size, anchors)
    return torch.tensor([1 - math.comb(grid.size - int(count), anchors) / whole for count in alike]).double()


def as_expected(hidden: Tensor, chances: Tensor) -> bool:
    """Binomials within 5 standard deviations, each beyond with probability 6e-7."""
    sd = (chances * (1 - chances) / len(hidden)).sqrt()
    return bool(((hidden.double().mean(0) - chances).abs() <= 5 * sd + 1e-9).all())


@notices("flip", "share")
def anchors_are_three_percent_of_the_patches_uniformly_drawn(lab: Lab) -> None:
    blank = torch.zeros(4096, 1, 14, 14)
    hidden = lab.hidden("cluster", blank, Grid(14, 14, 1), threshold=1.0, least=0.0)
    assert (hidden.sum(1) == 6).all()  # 196 - int(196 * .97)
    assert as_expected(hidden, torch.full((196,), 6 / 196).double())
    many = lab.hidden("cluster", blank[:64], Grid(14, 14, 1), threshold=1.0, least=0.0, anchors=0.1)
    assert (many.sum(1) == 20).all()


@notices("flip", "shift")
def all_patches_that_correlate_with_an_anchor_are_hidden_and_no_others(lab: Lab) -> None:
    images = scenes(24, PATCHES)
    anchors = anchors_of(images, PATCHES)
    for threshold in (0.2, 0.5, 0.8):
        hidden = lab.hidden("cluster", images, PATCHES, threshold=threshold, least=0.0)
        for image, anchor, mask in zip(images, anchors, hidden, strict=True):
            nearest = correlations(image, PATCHES)[anchor.numpy()].max(0)
            assert np.array_equal(mask.numpy(), nearest > threshold)


@notices("flip", "shift", "share")
def a_patch_is_hidden_as_often_as_one_of_those_alike_is_an_anchor(lab: Lab) -> None:
    images = scenes(3, SMALL, 1)
    for image, threshold in zip(images, (0.3, 0.5, 0.8), strict=True):
        many = image.expand(2048, -1, -1, -1)
        hidden = lab.hidden("cluster", many, SMALL, threshold=threshold, least=0.0)
        assert as_expected(hidden, chance(image, SMALL, threshold, 2))  # 64 - int(64 * .97) anchors


@notices("flip", "shift", "share")
def patches_in_another_order_are_hidden_in_that_order(lab: Lab) -> None:
    image = scenes(1, SMALL, 1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    moved = SMALL.unpatchify(SMALL.patchify(image)[:, order])
    hidden = lab.hidden("cluster", moved.expand(2048, -1, -1, -1), SMALL, threshold=0.5, least=0.0)
    assert as_expected(hidden, chance(image[0], SMALL, 0.5, 2)[order])


@notices("shift")
def brightness_and_contrast_of_each_patch_do_not_matter(lab: Lab) -> None:
    images = scenes(64, PATCHES)
    tokens = PATCHES.patchify(images)
    generator = torch.Generator().manual_seed(4)
    gain, offset = (torch.rand(64, 196, 1, generator=generator) for _ in range(2))
    changed = PATCHES.unpatchify((0.5 + 4 * gain) * tokens + 10 * offset)
    for given in ({"threshold": 0.5, "least": 0.0}, {"threshold": 0.9}, {"exact": True}):
        plain = Lab().hidden("cluster", images, PATCHES, **given)
        # Single precision: of 12,544 patches one or two may lie on the threshold.
        assert (plain != lab.hidden("cluster", changed, PATCHES, **given)).sum() <= 2


@notices("flip")
def higher_thresholds_hide_parts_of_what_lower_ones_hide(lab: Lab) -> None:
    images = scenes(64, PATCHES)
    masks = [lab.hidden("cluster", images, PATCHES, threshold=at, least=0.0) for at in (-1.0, 0.0, 0.3, 0.6, 0.9, 1.0)]
    assert masks[0].all()
    for lower, higher in itertools.pairwise(masks):
        assert not (higher & ~lower).any() and higher.sum() < lower.sum()


@notices("flip")
def patches_without_variance_correlate_with_none(lab: Lab) -> None:
    images = torch.full((64, 3, 56, 56), 0.7)
    view = lab.view("cluster", images, PATCHES, threshold=0.5, least=0.0)
    assert view.hidden is not None and (view.hidden.sum(1) == 6).all()
    half = scenes(64, PATCHES)
    half[..., 28:] = 0.3
    hidden = lab.hidden("cluster", half, PATCHES, threshold=0.5, least=0.0).view(64, 14, 14)
    assert torch.equal(hidden[:, :, 7:].flatten(1), anchors_of(half, PATCHES).view(64, 14, 14)[:, :, 7:].flatten(1))


@notices("flip", "shift")
def at_least_30_percent_are_hidden_the_next_best_correlated_first(lab: Lab) -> None:
    images = scenes(24, PATCHES)
    anchors = anchors_of(images, PATCHES)
    for threshold in (0.5, 0.95):
        hidden = lab.hidden("cluster", images, PATCHES, threshold=threshold)
        assert (hidden.sum(1) >= 59).all()
        for image, anchor, mask in zip(images, anchors, hidden, strict=True):
            nearest = correlations(image, PATCHES)[anchor.numpy()].max(0)
            best = np.zeros(196, bool)
            best[np.argsort(-nearest)[:59]] = True
            assert np.array_equal(mask.numpy(), best | (nearest > threshold))


@notices("flip", "shift")
def exact_hides_the_best_correlated_up_to_the_count(lab: Lab) -> None:
    images = scenes(24, PATCHES)
    anchors = anchors_of(images, PATCHES)
    for ratio, count in ((0.5, 98), (0.75, 147), (0.01, 2)):
        view = lab.view("cluster", images, PATCHES, ratio=ratio, exact=True)
        assert view.hidden is not None and view.length == 196 - count
        assert (view.hidden.sum(1) == count).all()
        for image, anchor, mask in zip(images, anchors, view.hidden, strict=True):
            if count < 6:
                assert not (mask & ~anchor).any()
                continue
            nearest = correlations(image, PATCHES)[anchor.numpy()].max(0)
            assert set(mask.nonzero()[:, 0].tolist()) == set(np.argsort(-nearest)[:count].tolist())


@notices("flip")
def the_threshold_is_calibrated_to_hide_the_ratio_on_average(lab: Lab) -> None:
    images = scenes(256, PATCHES, 1)
    for ratio in (0.5, 0.3, 0.7):
        share = lab.hidden("cluster", images, PATCHES, ratio=ratio, least=0.0).double().mean(1)
        # Calibrated on one draw of anchors, met by another: the difference of two means of 256 images.
        assert abs(float(share.mean()) - ratio) < 5 * float(share.std()) * (2 / 256) ** 0.5
        assert 0.02 < float(share.std()) < 0.3  # by what is in an image
    floor = lab.hidden("cluster", images, PATCHES).sum(1)
    assert (floor >= 59).all() and len(floor.unique()) > 10


@notices("flip", "shift")
def matched_hides_exactly_three_quarters_of_every_image(lab: Lab) -> None:
    images = scenes(8, PATCHES)
    view = lab.view(REGISTRY.create("cluster").matched(0.75), images, PATCHES)
    assert view.hidden is not None and view.length == 49
    assert (view.hidden.sum(1) == 147).all()
    for image, anchor, mask in zip(images, anchors_of(images, PATCHES), view.hidden, strict=True):
        nearest = correlations(image, PATCHES)[anchor.numpy()].max(0)
        assert nearest[mask.numpy()].min() > nearest[~mask.numpy()].max()


test_holds, test_notices = invariants_of(__name__)


def test_thresholds_that_are_no_correlations_are_refused() -> None:
    for threshold in (-1.5, 1.5):
        with pytest.raises(ValueError, match="threshold"):
            REGISTRY.create("cluster", threshold=threshold)
