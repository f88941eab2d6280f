"""Color changes of a whole batch on its device: each image's jitter is one 3 x 3 matrix and one gray offset.

Brightness, contrast, saturation, hue and grayscale are all affine in an image's pixels, so they are multiplied into one
matrix and applied at once. Two things differ from torchvision's ColorJitter: the order is fixed instead of random, with
one clamp at the end, and hue turns in the YIQ plane, which keeps the luminance, instead of in HSV.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from maskbench.core.rng import CounterRNG

LUMINANCE = (0.299, 0.587, 0.114)
YIQ = (LUMINANCE, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
MIN_SIGMA, MAX_SIGMA = 0.1, 2.0  # of the blur, in pixels of an image with sides of 224


@dataclass(frozen=True)
class ColorJitter:
    """Color changes of a crop: the probability of each change, and the ranges of the jitter.

    The defaults are BYOL's (arXiv 2006.07733), which DINO, iBOT and Barlow Twins took over.

    Attributes:
        jitter: Probability, in [0, 1], that brightness, contrast, saturation and hue are changed.
        brightness: Pixels are multiplied by 1 +- this.
        contrast: Distances from the image's mean luminance are multiplied by 1 +- this.
        saturation: Distances from gray are multiplied by 1 +- this.
        hue: Colors are turned by +- this share of the color circle.
        grayscale: Probability that an image loses its colors.
        blur: Probability of a Gaussian blur with a standard deviation from MIN_SIGMA to MAX_SIGMA.
        solarize: Probability that values from 0.5 on are inverted.
    """

    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    solarize: float = 0.0


def jitter_colors(
    images: Tensor,
    settings: ColorJitter,
    rng: CounterRNG,
    mean: Tensor,
    std: Tensor,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Change the colors of each image at random.

    Args:
        images: (B, 3, H, W), normalised.
        settings: Which changes, and how strong.
        rng: One stream an image. The same numbers are drawn whatever the settings are.
        mean: (3,) by which images are normalised, of pixels in [0, 1].
        std: (3,) likewise.
        size: Rows and columns of the run's images. The blur is in proportion to them, also for crops of another size.
            Default: the size of `images`.

    Returns:
        (B, 3, H, W), normalised.
    """
    uniforms = rng.uniform(9)
    mean, std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    pixels = images * std + mean
    if settings.jitter or settings.grayscale:
        pixels = _apply_jitter(pixels, settings, uniforms)
    if settings.blur:
        sigma = MIN_SIGMA + (MAX_SIGMA - MIN_SIGMA) * uniforms[:, 6]
        pixels = torch.where(_happens(uniforms[:, 7], settings.blur), blur_images(pixels, sigma, size), pixels)
    if settings.solarize:
        solarized = torch.where(pixels >= 0.5, 1 - pixels, pixels)
        pixels = torch.where(_happens(uniforms[:, 8], settings.solarize), solarized, pixels)
    return (pixels - mean) / std


def _happens(uniform: Tensor, probability: float) -> Tensor:
    """(B, 1, 1, 1) bool."""
    return (uniform < probability)[:, None, None, None]


def _apply_jitter(pixels: Tensor, settings: ColorJitter, uniforms: Tensor) -> Tensor:
    spans = (settings.brightness, settings.contrast, settings.saturation, 2 * math.pi * settings.hue)
    positions = (2 * uniforms[:, :4] - 1).to(pixels.dtype).unbind(1)  # in [-1, 1)
    is_jittered = uniforms[:, 4] < settings.jitter
    *changes, angle = (position * span * is_jittered for position, span in zip(positions, spans, strict=True))
    brightness, contrast, saturation = (1 + change for change in changes)
    saturation = saturation * (uniforms[:, 5] >= settings.grayscale)
    matrix = (brightness * contrast)[:, None, None] * hue_saturation_matrix(angle, saturation)
    luminance = yiq_matrices(pixels.device, pixels.dtype)[0]
    gray = torch.einsum("c,bchw->b", luminance, pixels) / pixels[0, 0].numel()  # the image's mean luminance
    offset = ((1 - contrast) * brightness * gray)[:, None, None, None]
    return (torch.einsum("bij,bjhw->bihw", matrix, pixels) + offset).clamp(0, 1)


def hue_saturation_matrix(angle: Tensor, saturation: Tensor) -> Tensor:
    """(B, 3, 3): turns hue by `angle` (B,) radians and multiplies saturation by `saturation` (B,); luminance stays."""
    _, to_yiq, from_yiq = yiq_matrices(angle.device, angle.dtype)
    cos, sin, zero = angle.cos() * saturation, angle.sin() * saturation, torch.zeros_like(angle)
    rows = [torch.stack(row, 1) for row in ((zero + 1, zero, zero), (zero, cos, -sin), (zero, sin, cos))]
    return from_yiq @ torch.stack(rows, 1) @ to_yiq


@lru_cache
def yiq_matrices(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """LUMINANCE (3,), YIQ (3, 3) and its inverse. Cached, because each copy from the host waits for the device."""
    with torch.inference_mode(False):
        to_yiq = torch.tensor(YIQ, dtype=torch.float64)
        return to_yiq[0].to(device, dtype), to_yiq.to(device, dtype), to_yiq.inverse().to(device, dtype)


def blur_images(pixels: Tensor, sigma: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Blur images by a Gaussian, whose weights are normalised anew at the border.

    Args:
        pixels: (B, C, H, W).
        sigma: (B,) standard deviations, in pixels of an image with 224 on each side.
        size: Rows and columns that count as 224. Default: those of `pixels`.
    """
    for axis, side in zip((2, 3), size or pixels.shape[2:], strict=True):
        position = torch.arange(pixels.shape[axis], device=pixels.device)
        squared = (position[:, None] - position).square() * (224 / side) ** 2
        weights = torch.softmax(-squared / (2 * sigma[:, None, None] ** 2), 2)  # (B, side, side)
        pixels = torch.einsum("bij,bc...jk->bc...ik", weights, pixels.transpose(axis, 2)).transpose(axis, 2)
    return pixels
