"""`shapes`: generated images, so that everything works without a download.

A textured, colored object stands on a textured, cluttered background. The class is the object's shape. In a part of the
images (`PRIORS`) the hue and texture of object and background follow the class, as they do in photographs, but they do
not suffice to tell it. Object and background differ in brightness, one way or the other. The object's mask is known. An
image depends on (split, number, size, channels) alone.

It is a smoke test with known truth, not a stand-in for photographs. The priors were set on run seeds 0 to 2 of the
quick preset, so that a linear probe orders random-init < random masking < supervised; docs/shapes.md has the figures.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.splits import Images

VERSION = 1
CLASSES = ("disc", "triangle", "square", "cross", "ring", "star", "bar", "crescent", "trefoil", "half")
TRAIN, TEST = 10_000, 2_000  # images
PATTERNS = 5
CLUTTER_SPOTS = 2
CHUNK_IMAGES = 500  # rendered at a time


@dataclass(frozen=True)
class Prior:
    """In which share of the images hue and texture follow the class; in the others they are random.

    Attributes:
        hue: Share of images, in [0, 1], whose hue follows the class.
        texture: Share of images, in [0, 1], whose pattern and frequency follow the class.
    """

    hue: float
    texture: float


PRIORS = {"object": Prior(hue=0.2, texture=0.4), "background": Prior(hue=0.2, texture=0.2)}


@dataclass(frozen=True)
class _Canvas:
    """x (1, 1, W) and y (1, H, 1): pixel coordinates, in which the shorter side spans [-1, 1]."""

    x: Tensor
    y: Tensor
    side: int  # the shorter side, in pixels
    channels: int

    @classmethod
    def create(cls, height: int, width: int, channels: int) -> "_Canvas":
        side = min(height, width)
        y = (2 * torch.arange(height) + 1 - height)[None, :, None] / side
        x = (2 * torch.arange(width) + 1 - width)[None, None, :] / side
        return cls(x, y, side, channels)


def generate(split: str, count: int, height: int, width: int, channels: int) -> Images:
    """Render the first images of a split.

    Args:
        split: "train" or "test".
        count: How many.
        height: Rows of an image, in pixels.
        width: Columns of an image, in pixels.
        channels: Any number.

    Returns:
        Images (count, channels, height, width) with labels and object masks.
    """
    canvas = _Canvas.create(height, width, channels)
    chunks = [
        _render(split, torch.arange(first, min(first + CHUNK_IMAGES, count)), canvas)
        for first in range(0, count, CHUNK_IMAGES)
    ]
    pixels, labels, objects = (torch.cat(chunk) for chunk in zip(*chunks, strict=True))
    return Images(pixels, labels, torch.ones(count), objects)


def _render(split: str, index: Tensor, canvas: _Canvas) -> tuple[Tensor, Tensor, Tensor]:
    """(B, channels, H, W) uint8 images, (B,) labels, (B, H, W) bool object masks of the images `index` (B,)."""
    rng = CounterRNG(sample_keys(index, VERSION, "shapes", split))
    labels = index % len(CLASSES)
    uniforms = rng.uniform(5)[..., None, None]
    coverage = _object_coverage(uniforms, labels, canvas)
    is_object_bright = uniforms[:, 4, 0, 0] < 0.5
    background = _draw_texture(rng, PRIORS["background"], labels * 7 + 3, ~is_object_bright, canvas)
    background = _add_clutter(rng, background, canvas)
    foreground = _draw_texture(rng, PRIORS["object"], labels, is_object_bright, canvas)
    images = background + coverage[:, None] * (foreground - background)
    images = images + 0.03 * rng.normal(*images.shape[1:])
    return (images.clamp(0, 1) * 255).round().to(torch.uint8), labels, coverage > 0.5


def _object_coverage(uniforms: Tensor, labels: Tensor, canvas: _Canvas) -> Tensor:
    """(B, H, W) in [0, 1]: how much of each pixel the object covers. `uniforms` (B, 4 or more, 1, 1) give radius,
    angle and centre."""
    radius, angle = 0.7 + 0.25 * uniforms[:, 0], 0.4 * (uniforms[:, 1] - 0.5)
    dx = (canvas.x - 0.25 * (uniforms[:, 2] - 0.5)) / radius
    dy = (canvas.y - 0.25 * (uniforms[:, 3] - 0.5)) / radius
    u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    own_class = labels[:, None, None, None].expand(-1, 1, *u.shape[1:])
    distance = _signed_distances(u, v).gather(1, own_class)[:, 0]
    return (0.5 - distance * radius * canvas.side / 2).clamp(0, 1)  # one pixel of smooth edge


def _add_clutter(rng: CounterRNG, background: Tensor, canvas: _Canvas) -> Tensor:
    for spot in rng.uniform(CLUTTER_SPOTS, 3)[..., None, None].unbind(1):
        distance = ((canvas.x - 2 * spot[:, 0] + 1) ** 2 + (canvas.y - 2 * spot[:, 1] + 1) ** 2).sqrt()
        coverage = ((0.1 + 0.2 * spot[:, 2] - distance) * canvas.side / 2 + 0.5).clamp(0, 1)
        color = _palette_color(rng.uniform(3), canvas.channels)
        background = background + coverage[:, None] * (color[..., None, None] - background)
    return background


def _signed_distances(u: Tensor, v: Tensor) -> Tensor:
    """(B, 10, H, W): for each class about the distance to the shape's edge, negative inside."""
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


def _palette_color(hsv: Tensor, channels: int) -> Tensor:
    """(B, 3) hue, saturation, value in [0, 1] -> (B, channels): a cosine palette for any number of channels."""
    phase = hsv[:, :1] + torch.arange(channels) / channels
    return (0.4 + 0.6 * hsv[:, 2:]) * (1 - hsv[:, 1:2] * (0.5 - 0.5 * torch.cos(2 * math.pi * phase)))


def _draw_texture(rng: CounterRNG, prior: Prior, kind: Tensor, is_bright: Tensor, canvas: _Canvas) -> Tensor:
    """(B, channels, H, W): two colors of similar brightness, mixed by a pattern.

    Where the prior holds, hue, pattern and frequency follow `kind` (B,), which stands for the class. Colors are light
    where `is_bright` (B,), else dark.
    """
    uniforms = rng.uniform(14)
    hue = torch.where(uniforms[:, 0] < prior.hue, (kind * 0.37 + 0.1 * (uniforms[:, 1] - 0.5)) % 1, uniforms[:, 2])
    follows = uniforms[:, 3] < prior.texture
    pattern = torch.where(follows, kind % PATTERNS, (uniforms[:, 4] * PATTERNS).long())
    frequency = 8 + 20 * torch.where(follows, kind * 0.35 % 1, uniforms[:, 5])
    values = torch.where(is_bright[:, None], 0.6 + 0.4 * uniforms[:, 6:8], 0.45 * uniforms[:, 6:8])
    hues = torch.stack([hue, hue + 0.2 * (uniforms[:, 10] - 0.5)], 1)
    one, two = (
        _palette_color(torch.stack([hues[:, i], 0.3 + 0.7 * uniforms[:, 8 + i], values[:, i]], 1), canvas.channels)
        for i in range(2)
    )
    one, two = one[..., None, None], two[..., None, None]
    turn, phase = (2 * math.pi * uniforms[:, 11:13, None, None]).unbind(1)
    share = _draw_pattern(rng, pattern, frequency[:, None, None], turn, phase, canvas)[:, None]
    return two + (one - two) * share


def _draw_pattern(
    rng: CounterRNG, pattern: Tensor, frequency: Tensor, turn: Tensor, phase: Tensor, canvas: _Canvas
) -> Tensor:
    """(B, H, W) in [0, 1]: pattern number `pattern` (B,), turned by `turn`; the other three are (B, 1, 1)."""
    x, y = canvas.x, canvas.y
    along, across = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    stripes = torch.sin(frequency * along + phase)
    patterns = [
        stripes,
        stripes * torch.sin(frequency * across + phase),  # checks
        0.6 * rng.normal(*along.shape[1:]),  # grain
        along,  # a gradient
        torch.sin(frequency * (x * x + y * y).sqrt() + phase),  # rings
    ]
    own = pattern[:, None, None, None].expand(-1, 1, *along.shape[1:])
    return (0.5 + 0.5 * torch.stack(patterns, 1).gather(1, own)[:, 0]).clamp(0, 1)
