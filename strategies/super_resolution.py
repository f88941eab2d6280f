"""An image of low resolution (MFM's super-resolution baseline)."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, register


@register("super-resolution")
@dataclass(frozen=True, kw_only=True)
class SuperResolution(Strategy):
    """Shrinks the image by `factor` and enlarges it again, bicubically; the detail must be recovered.

    The baseline of Xie et al., "Masked Frequency Modeling for Self-Supervised Visual Pre-Training" (MFM), ICLR 2023,
    arXiv 2206.07706. As published, nothing averages before shrinking: each small pixel is read from 4 x 4 neighbours of
    the image (bicubic with a = -0.75), so fine patterns alias. Deviations: the error is the objective's, where the
    reference compares spectra; pixels are not clamped to [0, 1] after each of the two steps, because a strategy sees
    normalised images: of uniform noise 20 % of the values differ, by 0.0085 on average (root mean square), and the
    standard deviation is 0.180, not 0.177.

    Attributes:
        factor: How many times smaller each side becomes, rounded down to whole pixels, 2 or more.
    """

    version: ClassVar[int] = 2  # 1 averaged before it shrank (antialiasing), and used the kernel with a = -0.5

    factor: Annotated[int, Field(ge=2)] = 8

    def __call__(self, images: Tensor, context: Context) -> View:
        sides = images.shape[2:]
        exact = images.to(torch.promote_types(images.dtype, torch.float32))
        shrunk = F.interpolate(exact, size=[max(1, side // self.factor) for side in sides], mode="bicubic")
        return View(F.interpolate(shrunk, size=tuple(sides), mode="bicubic").to(images.dtype))
