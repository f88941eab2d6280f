"""Common corruptions of a whole batch on its device, with no loop over images, at CIFAR-10-C's severities.

The corruptions and their strengths are those of Hendrycks and Dietterich (arXiv 1903.12261) in the data set CIFAR-10-C;
here are the seven that are arithmetic on pixels. An image's noise depends on its number alone, and is the same at all
severities, so that curves over them are smooth. Five things differ from the published data: levels are rounded to the
nearest where theirs are cut off; blur and pixelation are in proportion to the image, so that they are theirs at 32
pixels a side; the blur's weights are normalised anew at the border where theirs repeats the last pixel; pixelation does
not round between its two steps; the mean over severities is over accuracies, not over errors relative to AlexNet's.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskbench.core.rng import Draws, keys
from maskbench.data.color_jitter import blurred

LEVELS = 256  # of a stored pixel


@dataclass(frozen=True)
class Corruption:
    """`change` turns pixels (B, C, H, W) in [0, 1] into others, not yet clipped, with the strength of a severity."""

    change: Callable[[Tensor, float, Draws], Tensor]
    strengths: tuple[float, float, float, float, float]  # at severities 1 to 5


def corrupted(pixels: Tensor, name: str, severity: int, numbers: Tensor) -> Tensor:
    """(B, C, H, W) uint8 -> the same, corrupted; `numbers` (B,) int64 are the images', on the same device."""
    corruption = CORRUPTIONS[name]
    draws = Draws(keys(numbers, 0, "robust", name))
    changed = corruption.change(pixels.float() / 255, corruption.strengths[severity - 1], draws)
    return (changed.clamp(0, 1) * 255).round().byte()


def gaussian_noise(pixels: Tensor, std: float, draws: Draws) -> Tensor:
    """A normal number for every value."""
    return pixels + std * draws.normal(*pixels.shape[1:])


def shot_noise(pixels: Tensor, photons: float, draws: Draws) -> Tensor:
    """Poisson counts where white is so many `photons`, exact: drawn by inverting the distribution function."""
    levels = (pixels * (LEVELS - 1)).round().long()
    table = _poisson(photons).to(pixels.device)
    # Row after row, each raised by its number, the table is one ascending list: one search for all pixels.
    found = torch.searchsorted(table.flatten(), levels + draws.uniform(*pixels.shape[1:]).double(), right=True)
    return (found - levels * table.shape[1]) / photons


@functools.cache
def _poisson(photons: float) -> Tensor:
    """(LEVELS, counts) float64: level + P(at most so many photons), up to where all but 1e-9 is below."""
    counts = torch.arange(1, photons + 8 * photons**0.5 + 10, dtype=torch.float64)
    levels = torch.arange(LEVELS, dtype=torch.float64)[:, None]
    expected = levels * photons / (LEVELS - 1)
    return levels + torch.special.gammaincc(counts.expand(LEVELS, -1), expected.expand(-1, len(counts)))


def impulse_noise(pixels: Tensor, share: float, draws: Draws) -> Tensor:
    """This share of the values are 0 or 1, with equal chances."""
    drawn = draws.uniform(*pixels.shape[1:])
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn >= 1 - share / 2, 1.0, pixels))


def gaussian_blur(pixels: Tensor, sigma: float, draws: Draws) -> Tensor:
    """A standard deviation of `sigma` pixels where a side has 32."""
    return blurred(pixels, torch.full((len(pixels),), sigma * 224 / 32, device=pixels.device))


def brightness(pixels: Tensor, added: float, draws: Draws) -> Tensor:
    """The value of HSV, which is the largest channel, raised; hue and saturation stay, and black becomes grey."""
    value = pixels.amax(1, keepdim=True)
    raised = (value + added).clamp(max=1)
    return torch.where(value > 0, pixels * (raised / value), raised)


def contrast(pixels: Tensor, factor: float, draws: Draws) -> Tensor:
    """Distances from the mean of each image's channel, scaled."""
    mean = pixels.mean((2, 3), keepdim=True)
    return mean + factor * (pixels - mean)


def pixelate(pixels: Tensor, share: float, draws: Draws) -> Tensor:
    """Shrunk to this share of each side by a box filter, and enlarged by the nearest pixel."""
    rows, cols = (_cells(side, share, pixels.device) for side in pixels.shape[2:])
    return rows @ pixels @ cols.T


def _cells(side: int, share: float, device: torch.device) -> Tensor:
    """(side, side): the average over each of int(share * side) cells, of the pixels whose centres lie in it."""
    cells = max(1, int(share * side))
    cell = ((torch.arange(side, device=device) + 0.5) * cells / side).long()
    together = (cell[:, None] == cell).float()
    return together / together.sum(1, keepdim=True)


CORRUPTIONS = {
    "gaussian-noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot-noise": Corruption(shot_noise, (500, 250, 100, 75, 50)),
    "impulse-noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian-blur": Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}
