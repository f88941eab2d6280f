"""Common corruptions of a whole batch on its device, with no loop over images, at CIFAR-10-C's severities.

Corruptions and strengths are those of CIFAR-10-C (Hendrycks and Dietterich, arXiv 1903.12261): the seven that are
arithmetic on pixels. An image's noise depends on its number alone and is the same at all severities, so that curves
over severities are smooth. Five things differ from the published data:

- Levels are rounded to the nearest; theirs are cut off.
- Blur and pixelation are in proportion to the image; they equal theirs at 32 pixels a side.
- The blur's weights are normalised anew at the border; theirs repeats the last pixel.
- Pixelation does not round between its two steps.
- The mean over severities is a mean of accuracies, not of errors relative to AlexNet's.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.color_jitter import blur_images

LEVELS = 256  # of a stored pixel


@dataclass(frozen=True)
class Corruption:
    """A corruption at five severities.

    Attributes:
        apply: Turns pixels (B, C, H, W) in [0, 1] into others, not yet clipped, with a given strength.
        strengths: At severities 1 to 5.
    """

    apply: Callable[[Tensor, float, CounterRNG], Tensor]
    strengths: tuple[float, float, float, float, float]


def corrupt(pixels: Tensor, name: str, severity: int, index: Tensor) -> Tensor:
    """Corrupt images.

    Args:
        pixels: (B, C, H, W) uint8.
        name: One of CORRUPTIONS.
        severity: 1 to 5.
        index: (B,) int64, the images' numbers, which seed their noise; on the device of `pixels`.

    Returns:
        (B, C, H, W) uint8.
    """
    corruption = CORRUPTIONS[name]
    rng = CounterRNG(sample_keys(index, 0, "robust", name))
    corrupted = corruption.apply(pixels.float() / 255, corruption.strengths[severity - 1], rng)
    return (corrupted.clamp(0, 1) * 255).round().byte()


def gaussian_noise(pixels: Tensor, std: float, rng: CounterRNG) -> Tensor:
    """Add a normal number of standard deviation `std` to every value."""
    return pixels + std * rng.normal(*pixels.shape[1:])


def shot_noise(pixels: Tensor, photons: float, rng: CounterRNG) -> Tensor:
    """Draw Poisson counts of photons, of which white has `photons`, exactly: by inverting the distribution function."""
    levels = (pixels * (LEVELS - 1)).round().long()
    table = _poisson_table(photons).to(pixels.device)
    # Each row is raised by its number, so that all rows together ascend: one search serves all pixels.
    found = torch.searchsorted(table.flatten(), levels + rng.uniform(*pixels.shape[1:]).double(), right=True)
    return (found - levels * table.shape[1]) / photons


@functools.cache
def _poisson_table(photons: float) -> Tensor:
    """(LEVELS, counts) float64: level + P(at most so many photons), up to a count that is exceeded with P < 1e-9."""
    counts = torch.arange(1, photons + 8 * photons**0.5 + 10, dtype=torch.float64)
    levels = torch.arange(LEVELS, dtype=torch.float64)[:, None]
    expected = levels * photons / (LEVELS - 1)
    return levels + torch.special.gammaincc(counts.expand(LEVELS, -1), expected.expand(-1, len(counts)))


def impulse_noise(pixels: Tensor, share: float, rng: CounterRNG) -> Tensor:
    """Replace a `share` of the values by 0 or 1, at even odds."""
    uniforms = rng.uniform(*pixels.shape[1:])
    return torch.where(uniforms < share / 2, 0.0, torch.where(uniforms >= 1 - share / 2, 1.0, pixels))


def gaussian_blur(pixels: Tensor, sigma: float, rng: CounterRNG) -> Tensor:
    """Blur by a Gaussian with a standard deviation of `sigma` pixels of an image with sides of 32."""
    return blur_images(pixels, torch.full((len(pixels),), sigma * 224 / 32, device=pixels.device))


def brightness(pixels: Tensor, added: float, rng: CounterRNG) -> Tensor:
    """Raise the value of HSV, which is the largest channel. Hue and saturation stay; black becomes gray."""
    value = pixels.amax(1, keepdim=True)
    raised = (value + added).clamp(max=1)
    return torch.where(value > 0, pixels * (raised / value), raised)


def contrast(pixels: Tensor, factor: float, rng: CounterRNG) -> Tensor:
    """Scale distances from the mean of each channel of an image."""
    mean = pixels.mean((2, 3), keepdim=True)
    return mean + factor * (pixels - mean)


def pixelate(pixels: Tensor, share: float, rng: CounterRNG) -> Tensor:
    """Shrink each side to `share` of it by a box filter, and enlarge by the nearest pixel."""
    rows, cols = (_cell_means(side, share, pixels.device) for side in pixels.shape[2:])
    return rows @ pixels @ cols.T


def _cell_means(side: int, share: float, device: torch.device) -> Tensor:
    """(side, side) matrix that replaces each pixel by the mean of its cell, that in which its centre lies; a side has
    int(share * side) cells."""
    cells = max(1, int(share * side))
    cell = ((torch.arange(side, device=device) + 0.5) * cells / side).long()
    same_cell = (cell[:, None] == cell).float()
    return same_cell / same_cell.sum(1, keepdim=True)


CORRUPTIONS = {
    "gaussian-noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot-noise": Corruption(shot_noise, (500, 250, 100, 75, 50)),
    "impulse-noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian-blur": Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}
