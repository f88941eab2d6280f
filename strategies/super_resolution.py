"""An image of low resolution (MFM's super-resolution baseline)."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field

from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, register


@register("super-resolution")
@dataclass(frozen=True, kw_only=True)
class SuperResolution(Strategy):
    """Shrinks the image by `factor` and enlarges it again, bicubically; the detail must be recovered.

    The baseline of Xie et al., "Masked Frequency Modeling for Self-Supervised Visual Pre-Training" (MFM), ICLR 2023,
    arXiv 2206.07706. Deviation: the error is the objective's, where the reference compares spectra.

    Attributes:
        factor: How many times smaller each side becomes, 2 or more.
    """

    factor: Annotated[int, Field(ge=2)] = 8

    def __call__(self, images: Tensor, context: Context) -> View:
        sides = images.shape[2:]
        small = [max(1, round(side / self.factor)) for side in sides]
        shrunk = F.interpolate(images, size=small, mode="bicubic", antialias=True)
        # antialias also chooses the kernel (a = -0.5, as Pillow's), which must be the same both ways
        return View(F.interpolate(shrunk, size=tuple(sides), mode="bicubic", antialias=True))
