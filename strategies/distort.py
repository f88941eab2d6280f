"""A fish-eye view (Beyond Masking's distorted task)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator

from maskbench.strategy import Context, RatioRange, Strategy, Tensor, View, dataclass, register


def _ensure_inside(strength: tuple[float, float]) -> tuple[float, float]:
    if strength[1] > 0.3535:
        raise ValueError(f"Input should be at most 0.3535, is {strength[1]}")
    return strength


# Above 1 / (2 * sqrt(2)) = 0.3535 pixels may be read outside of the image, which the published range never does.
Strength = Annotated[RatioRange, AfterValidator(_ensure_inside)]


@register("distort")
@dataclass(frozen=True, kw_only=True)
class Distort(Strategy):
    """Magnifies the image around a random centre, more so the farther away; the flat image must be recovered.

    Tian et al., "Beyond Masking: Demystifying Token-Based Pre-Training for Vision Transformers", 2022, arXiv
    2203.14313: the pixel at g in [-1, 1]^2 is read at g + m * |c - g| * (c - g), the centre c uniform over the image, m
    uniform in `strength`, bilinearly. No deviation known.

    Attributes:
        strength: Range of m, the strength of the distortion, in (0, 0.3535]; drawn uniformly for each image.
    """

    strength: Strength = (0.15, 0.25)

    def __call__(self, images: Tensor, context: Context) -> View:
        height, width = images.shape[2:]
        centre = context.uniform(1, 1, 2, low=-1, high=1)
        strength = context.uniform(1, 1, 1, low=self.strength[0], high=self.strength[1])
        rows, cols = (torch.linspace(-1, 1, side, device=images.device) for side in (height, width))
        place = torch.stack([cols.expand(height, width), rows[:, None].expand(height, width)], -1)
        away = centre - place
        read = place + strength * away.norm(dim=-1, keepdim=True) * away
        return View(F.grid_sample(images, read.to(images.dtype), align_corners=True))
