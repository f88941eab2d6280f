"""`shapes`: embedded, generated images, so that everything works with no download.

A textured, coloured object stands on a textured, cluttered background. The class is the object's shape; its hue and
texture, and those of the background, follow the class in a part of the images (`PRIORS`), as they do in photographs,
but do not suffice. Object and background differ in brightness, one way or the other. The object's mask is known. An
image depends on (split, number, size, channels) alone.

It is a smoke test with known truth, not a stand-in for photographs. The priors were set on run seeds 0 to 2 of the
quick preset, so that a linear probe orders random-init < random masking < supervised; docs/shapes.md has the figures.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maskbench.core.rng import Draws, keys
from maskbench.data.splits import Images

VERSION = 1
CLASSES = ("disc", "triangle", "square", "cross", "ring", "star", "bar", "crescent", "trefoil", "half")
TRAIN, TEST = 10_000, 2_000
PATTERNS = 5
SPOTS = 2  # of clutter on the background
CHUNK = 500


@dataclass(frozen=True)
class Prior:
    """Share of images in which a hue and a texture follow the class; elsewhere they are random."""

    hue: float
    texture: float


PRIORS = {"object": Prior(hue=0.2, texture=0.4), "background": Prior(hue=0.2, texture=0.2)}


def generate(split: str, count: int, height: int, width: int, channels: int) -> Images:
    """`count` images (N, channels, height, width) of "train" or "test" with labels and object masks."""
    parts = [
        _render(split, torch.arange(first, min(first + CHUNK, count)), height, width, channels)
        for first in range(0, count, CHUNK)
    ]
    pixels, labels, objects = (torch.cat(part) for part in zip(*parts, strict=True))
    return Images(pixels, labels, torch.ones(count), objects)


def _render(split: str, index: Tensor, height: int, width: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, channels, H, W) uint8 images, (B,) labels, (B, H, W) bool object masks of these numbers."""
    draws = Draws(keys(index, VERSION, "shapes", split))
    labels = index % len(CLASSES)
    # Coordinates in which the shorter side spans [-1, 1].
    side = min(height, width)
    y = (2 * torch.arange(height) + 1 - height)[None, :, None] / side
    x = (2 * torch.arange(width) + 1 - width)[None, None, :] / side

    drawn = draws.uniform(5)[..., None, None]
    radius, angle = 0.7 + 0.25 * drawn[:, 0], 0.4 * (drawn[:, 1] - 0.5)
    dx, dy = (x - 0.25 * (drawn[:, 2] - 0.5)) / radius, (y - 0.25 * (drawn[:, 3] - 0.5)) / radius
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    outside = _outlines(u, v).gather(1, labels[:, None, None, None].expand(-1, 1, height, width))[:, 0]
    alpha = (0.5 - outside * radius * side / 2).clamp(0, 1)  # one pixel of smooth edge

    bright = drawn[:, 4, 0, 0] < 0.5
    background = _textured(draws, PRIORS["background"], labels * 7 + 3, ~bright, x, y, channels)
    for spot in draws.uniform(SPOTS, 3)[..., None, None].unbind(1):
        distance = ((x - 2 * spot[:, 0] + 1) ** 2 + (y - 2 * spot[:, 1] + 1) ** 2).sqrt()
        cover = ((0.1 + 0.2 * spot[:, 2] - distance) * side / 2 + 0.5).clamp(0, 1)
        colour = _colour(draws.uniform(3), channels)
        background = background + cover[:, None] * (colour[..., None, None] - background)
    foreground = _textured(draws, PRIORS["object"], labels, bright, x, y, channels)
    images = background + alpha[:, None] * (foreground - background)
    images = images + 0.03 * draws.normal(channels, height, width)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8), labels, alpha > 0.5


def _outlines(u: Tensor, v: Tensor) -> Tensor:
    """(B, 10, H, W): for each class a function below 0 inside its shape, about the distance to the edge."""
    r, a = (u * u + v * v).sqrt(), torch.atan2(v, u)
    au, av = u.abs(), v.abs()
    wedge = math.pi / 3
    triangle = r * torch.cos((a + math.pi / 2) % (2 * wedge) - wedge) - 0.5
    return torch.stack(
        [
            r - 0.8,
            triangle,
            torch.maximum(au, av) - 0.7,
            torch.maximum(torch.minimum(au, av) - 0.25, torch.maximum(au, av) - 0.9),
            (r - 0.7).abs() - 0.17,
            r - 0.65 - 0.27 * torch.cos(5 * (a + math.pi / 2)),
            torch.maximum(au - 0.95, av - 0.35),
            torch.maximum(r - 0.85, 0.75 - ((u - 0.45) ** 2 + v * v).sqrt()),
            r - 0.65 - 0.3 * torch.cos(3 * (a + math.pi / 2)),
            torch.maximum(r - 0.9, -v),
        ],
        1,
    )


def _colour(hsv: Tensor, channels: int) -> Tensor:
    """(B, 3) hue, saturation, value in [0, 1] -> (B, channels): a cosine palette that any channel count can wear."""
    phase = hsv[:, :1] + torch.arange(channels) / channels
    return (0.4 + 0.6 * hsv[:, 2:]) * (1 - hsv[:, 1:2] * (0.5 - 0.5 * torch.cos(2 * math.pi * phase)))


def _textured(draws: Draws, prior: Prior, kind: Tensor, bright: Tensor, x: Tensor, y: Tensor, channels: int) -> Tensor:
    """(B, channels, H, W): two colours of like brightness mixed by a pattern. `kind` (B,) stands for the class that
    hue, pattern and frequency follow; where `bright` (B,) the colours are light, else dark."""
    drawn = draws.uniform(14)
    hue = torch.where(drawn[:, 0] < prior.hue, (kind * 0.37 + 0.1 * (drawn[:, 1] - 0.5)) % 1, drawn[:, 2])
    follows = drawn[:, 3] < prior.texture
    pattern = torch.where(follows, kind % PATTERNS, (drawn[:, 4] * PATTERNS).long())[:, None, None]
    frequency = (8 + 20 * torch.where(follows, kind * 0.35 % 1, drawn[:, 5]))[:, None, None]
    values = torch.where(bright[:, None], 0.6 + 0.4 * drawn[:, 6:8], 0.45 * drawn[:, 6:8])
    hues = torch.stack([hue, hue + 0.2 * (drawn[:, 10] - 0.5)], 1)
    one, two = (
        _colour(torch.stack([hues[:, i], 0.3 + 0.7 * drawn[:, 8 + i], values[:, i]], 1), channels)[..., None, None]
        for i in range(2)
    )
    turn, phase = (2 * math.pi * drawn[:, 11:13, None, None]).unbind(1)
    along, across = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    stripes = torch.sin(frequency * along + phase)
    patterns = [
        stripes,
        stripes * torch.sin(frequency * across + phase),  # checks
        0.6 * draws.normal(*along.shape[1:]),  # grain
        along,  # a gradient
        torch.sin(frequency * (x * x + y * y).sqrt() + phase),  # rings
    ]
    mix = torch.stack(patterns, 1).gather(1, pattern[:, None].expand(-1, 1, *along.shape[1:]))[:, 0]
    share = (0.5 + 0.5 * mix).clamp(0, 1)[:, None]
    return two + (one - two) * share
