"""ColorMAE's noises, against noise of numpy filtered by scipy, and by how visible patches clump."""

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices

COLORS = ("red", "green", "blue", "purple")
LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 2), (0, 3), (4, 0), (6, 0))  # rows down, columns right


def peak(fine: float, coarse: float) -> float:
    """The highest gain of the difference of two Gaussians, looked up on a fine axis of frequencies."""
    squared = np.linspace(0, 2 * np.pi**2, 200_001)
    return float((np.exp(-squared * fine**2 / 2) - np.exp(-squared * coarse**2 / 2)).max())


@cache
def by_rule(color: str, fine: float = 0.7, coarse: float = 1.4) -> Tensor:
    """(B, 14, 14) bool, True = seen: where filtered noise, cut from the middle of a larger field, is highest."""
    noise = np.random.default_rng(0).standard_normal((1500, 30, 30), np.float32)

    def blurred(sigma: float) -> np.ndarray:
        return ndimage.gaussian_filter(noise, (0, sigma, sigma), truncate=3)  # up to 8 patches, the margin

    low, middle = blurred(coarse), blurred(fine) - blurred(coarse)
    kinds = {"red": low, "green": middle, "blue": noise - blurred(fine), "purple": noise - middle / peak(fine, coarse)}
    inner = kinds[color][:, 8:22, 8:22].reshape(1500, 196)
    highest = np.argsort(inner, 1)[:, -49:]
    seen = np.zeros((1500, 196), bool)
    np.put_along_axis(seen, highest, True, 1)
    return torch.from_numpy(seen.reshape(1500, 14, 14))


@cache
def drawn(breakage: str, color: str, **given: Any) -> Tensor:
    """(B, 14, 14) bool, True = seen."""
    return ~Lab(breakage).hidden(f"color-{color}", 2048, **given).view(-1, 14, 14)


def together(seen: Tensor, down: int, right: int) -> Tensor:
    """(B, 14 - down, 14 - right): whether a patch and the one `down` and `right` of it are both seen."""
    return seen[:, : 14 - down, : 14 - right] & seen[:, down:, right:]


def same_means(found: Tensor, expected: Tensor) -> bool:
    """Of each column; 5 standard errors of a difference have probability 6e-7."""
    a, b = found.double(), expected.double()
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    return bool(((a.mean(0) - b.mean(0)).abs() <= 5 * error).all())


@notices("flip")
def exactly_49_patches_are_seen(lab: Lab) -> None:
    for color in COLORS:
        for rows, cols, ratio, visible in ((14, 14, 0.75, 49), (8, 8, 0.6, 25), (6, 10, 0.9, 6)):
            view = lab.view(f"color-{color}", 64, Grid(rows, cols, 1), ratio=ratio)
            assert view.hidden is not None
            assert ((~view.hidden).sum(1) == visible).all() and view.length == visible


@notices("flip", "share")
def seen_patches_clump_at_every_distance_as_in_noise_filtered_by_scipy(lab: Lab) -> None:
    for color in COLORS:
        pairs, reference = (
            torch.stack([together(seen, *lag).sum((1, 2)) for lag in LAGS], 1)
            for seen in (drawn(lab.breakage, color), by_rule(color))
        )
        assert same_means(pairs, reference), color


@notices("flip", "shift", "share")
def neighbours_are_seen_together_as_in_noise_filtered_by_scipy(lab: Lab) -> None:
    for color in COLORS:
        seen, reference = drawn(lab.breakage, color), by_rule(color)
        # One sum for each two columns, or rows, next to each other, so that a seam between two of them shows.
        assert same_means(together(seen, 0, 1).sum(1), together(reference, 0, 1).sum(1)), color
        assert same_means(together(seen, 1, 0).sum(2), together(reference, 1, 0).sum(2)), color


def border(seen: Tensor) -> Tensor:
    """(B,) how many patches of the outermost rows and columns are seen."""
    return seen.sum((1, 2)) - seen[:, 1:-1, 1:-1].sum((1, 2))


@notices("flip", "share")
def every_patch_is_seen_as_often_as_in_noise_filtered_by_scipy(lab: Lab) -> None:
    for color in COLORS:
        seen, reference = drawn(lab.breakage, color), by_rule(color)
        assert same_means(seen.flatten(1), reference.flatten(1)), color
        # Noise that lacks a margin varies more at the border, where single patches tell too little.
        assert same_means(border(seen), border(reference)), color


def adjacent(seen: Tensor) -> float:
    """Mean number of pairs of seen patches side by side."""
    return float((together(seen, 0, 1).sum((1, 2)) + together(seen, 1, 0).sum((1, 2))).double().mean())


@notices("flip")
def red_and_green_clump_and_blue_keeps_apart_compared_with_random(lab: Lab) -> None:
    # A random subset of 49 of 196 has 364 * (49 * 48) / (196 * 195) = 22.4 pairs side by side.
    pairs = {color: adjacent(drawn(lab.breakage, color)) for color in COLORS}
    assert pairs["blue"] < 0.8 * 22.4 and pairs["green"] > 1.2 * 22.4 and pairs["red"] > pairs["green"]


def spectrum(seen: Tensor) -> np.ndarray:
    """Mean power of masks over the distance from frequency zero: low, middle and high thirds of the axis."""
    mask = seen.double().numpy() - 0.25
    power = (np.abs(np.fft.fft2(mask)) ** 2).mean(0) / 196
    frequency = np.fft.fftfreq(14)
    distance = np.hypot(*np.meshgrid(frequency, frequency))
    edges = (0.01, 0.11, 0.36, 0.75)
    return np.array([power[(distance >= low) & (distance < high)].mean() for low, high in itertools.pairwise(edges)])


# Moving a mask on the torus leaves its spectrum as it is, and so does exchanging seen and hidden.
@notices("share")
def each_color_has_its_power_where_its_filter_passes(lab: Lab) -> None:
    low, middle, high = (dict(zip(COLORS, row, strict=True)) for row in
                         np.stack([spectrum(drawn(lab.breakage, color)) for color in COLORS], 1))  # fmt: skip
    # White masks have the power .25 * .75 = .1875 at every frequency.
    assert low["red"] > 5 * 0.1875 and low["red"] > middle["red"] > high["red"] and high["red"] < 0.1875
    assert high["blue"] > 0.1875 > low["blue"] and high["blue"] > middle["blue"] > low["blue"]
    assert middle["green"] > 0.1875 and middle["green"] > max(low["green"], high["green"])
    assert middle["purple"] < 0.1875 and middle["purple"] < min(low["purple"], high["purple"])
    for color in COLORS:
        assert np.allclose(spectrum(drawn(lab.breakage, color)), spectrum(by_rule(color)), rtol=0.1)


@notices("flip", "share")
def widths_of_the_filters_are_followed(lab: Lab) -> None:
    for color, fine, coarse in (("red", 0.7, 2.5), ("green", 0.5, 2.0), ("blue", 1.2, 1.4), ("purple", 0.5, 2.0)):
        seen, reference = drawn(lab.breakage, color, fine=fine, coarse=coarse), by_rule(color, fine, coarse)
        pairs = [torch.stack([together(mask, *lag).sum((1, 2)) for lag in LAGS], 1) for mask in (seen, reference)]
        assert same_means(*pairs), color


@notices("flip")
def matched_hides_exactly_three_quarters(lab: Lab) -> None:
    for color in COLORS:
        hidden = lab.hidden(REGISTRY.create(f"color-{color}").matched(0.75), 64, TOKENS)
        assert (hidden.sum(1) == 147).all()


test_holds, test_notices = invariants_of(__name__)


def test_widths_out_of_range_are_refused() -> None:
    for name, value in (("fine", 0), ("coarse", 9)):
        with pytest.raises(ValueError, match=name):
            REGISTRY.create("color-red", **{name: value})


@pytest.mark.parametrize("color", COLORS)
def test_a_band_without_width_is_refused(color: str) -> None:
    with pytest.raises(ValueError, match=r"fine=1\.0 must be below coarse=1\.0"):
        REGISTRY.create(f"color-{color}", fine=1.0, coarse=1.0)
