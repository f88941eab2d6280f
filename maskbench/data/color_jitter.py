"""Colour changes of a whole batch on its device: each image's jitter is one 3 x 3 matrix and one grey offset.

Brightness, contrast, saturation, hue and the loss of colour are all affine in an image's pixels, so they are multiplied
into one matrix and applied at once. Two things differ from torchvision's ColorJitter: the order is fixed instead of
random, with one clamp at the end, and hue turns in the YIQ plane, which keeps the luminance, instead of in HSV.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from maskbench.core.rng import Draws

LUMINANCE = (0.299, 0.587, 0.114)
YIQ = (LUMINANCE, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
SHARPEST, BLUREST = 0.1, 2.0  # standard deviations of the blur in pixels of an image with sides of 224


@dataclass(frozen=True)
class Colours:
    """Chances of each change, and the ranges of jitter: brightness, contrast and saturation are multiplied by 1 +-
    this, hue is turned by +- this share of the circle. The defaults are BYOL's (arXiv 2006.07733), which DINO, iBOT and
    Barlow Twins took over."""

    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0
    solarise: float = 0.0


def recoloured(
    images: Tensor, colours: Colours, draws: Draws, mean: Tensor, std: Tensor, size: tuple[int, int] | None = None
) -> Tensor:
    """Images (B, 3, H, W), normalised by the (3,) moments of pixels in [0, 1], with `colours` drawn for each.

    size: rows and columns of the run's images, in whose pixels the blur is, where these are wider or smaller. Always
    the same draws are used up, whatever the chances.
    """
    drawn = draws.uniform(9)
    mean, std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    pixels = images * std + mean
    if colours.jitter or colours.grey:
        pixels = _jittered(pixels, colours, drawn)
    if colours.blur:
        sigma = SHARPEST + (BLUREST - SHARPEST) * drawn[:, 6]
        pixels = torch.where(_chance(drawn[:, 7], colours.blur), blurred(pixels, sigma, size), pixels)
    if colours.solarise:
        turned = torch.where(pixels >= 0.5, 1 - pixels, pixels)
        pixels = torch.where(_chance(drawn[:, 8], colours.solarise), turned, pixels)
    return (pixels - mean) / std


def _chance(drawn: Tensor, chance: float) -> Tensor:
    return (drawn < chance)[:, None, None, None]


def _jittered(pixels: Tensor, colours: Colours, drawn: Tensor) -> Tensor:
    spans = (colours.brightness, colours.contrast, colours.saturation, 2 * math.pi * colours.hue)
    places = (2 * drawn[:, :4] - 1).to(pixels.dtype).unbind(1)
    happens = drawn[:, 4] < colours.jitter
    *factors, angle = (place * span * happens for place, span in zip(places, spans, strict=True))
    brightness, contrast, saturation = (1 + factor for factor in factors)
    saturation = saturation * (drawn[:, 5] >= colours.grey)
    matrix = (brightness * contrast)[:, None, None] * turn(angle, saturation)
    luminance = constants(pixels.device, pixels.dtype)[0]
    grey = torch.einsum("c,bchw->b", luminance, pixels) / pixels[0, 0].numel()  # the image's mean luminance
    offset = ((1 - contrast) * brightness * grey)[:, None, None, None]
    return (torch.einsum("bij,bjhw->bihw", matrix, pixels) + offset).clamp(0, 1)


def turn(angle: Tensor, saturation: Tensor) -> Tensor:
    """(B, 3, 3): turns hue by `angle` (B,) radians and scales colour by `saturation` (B,), luminance unchanged."""
    _, to_yiq, from_yiq = constants(angle.device, angle.dtype)
    cos, sin, zero = angle.cos() * saturation, angle.sin() * saturation, torch.zeros_like(angle)
    rows = [torch.stack(row, 1) for row in ((zero + 1, zero, zero), (zero, cos, -sin), (zero, sin, cos))]
    return from_yiq @ torch.stack(rows, 1) @ to_yiq


@lru_cache
def constants(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """LUMINANCE (3,), YIQ (3, 3) and its inverse. Kept, because each copy from the host waits for the device."""
    with torch.inference_mode(False):
        to_yiq = torch.tensor(YIQ, dtype=torch.float64)
        return to_yiq[0].to(device, dtype), to_yiq.to(device, dtype), to_yiq.inverse().to(device, dtype)


def blurred(pixels: Tensor, sigma: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Images (B, C, H, W) under a Gaussian of standard deviation `sigma` (B,), in units of which `size`, or the image,
    has 224 on each side; at the border the weights are normalised anew."""
    for axis, side in zip((2, 3), size or pixels.shape[2:], strict=True):
        place = torch.arange(pixels.shape[axis], device=pixels.device)
        squared = (place[:, None] - place).square() * (224 / side) ** 2
        weights = torch.softmax(-squared / (2 * sigma[:, None, None] ** 2), 2)  # (B, side, side)
        pixels = torch.einsum("bij,bc...jk->bc...ik", weights, pixels.transpose(axis, 2)).transpose(axis, 2)
    return pixels
