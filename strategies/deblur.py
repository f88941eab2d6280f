"""A Gaussian blur (MFM's deblurring baseline)."""

from typing import Annotated

import torch
from pydantic import Field

from maskbench.strategy import Context, Positive, Strategy, Tensor, View, dataclass, register

Radius = Annotated[int, Field(ge=1)]


@register("deblur")
@dataclass(frozen=True, kw_only=True)
class Deblur(Strategy):
    """Blurs with a Gaussian cut off at a random radius; the sharp image must be recovered.

    The baseline of Xie et al., "Masked Frequency Modeling for Self-Supervised Visual Pre-Training" (MFM), ICLR 2023,
    arXiv 2206.07706: `sigma` 5 px, kernels of 7 to 21 px a side, that is radii of 3 to 10, odd sides equally likely.
    Deviations: at the border the kernel is renormalised over the pixels that exist; the error is the objective's, where
    the reference compares spectra.

    Attributes:
        sigma: Standard deviation of the Gaussian in pixels, above 0.
        smallest: Least radius of the kernel in pixels, 1 or more.
        largest: Largest radius of the kernel in pixels, at least `smallest`.
    """

    sigma: Positive = 5.0
    smallest: Radius = 3
    largest: Radius = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest > self.largest:
            raise ValueError(f"deblur: smallest={self.smallest} must not exceed largest={self.largest}")

    def __call__(self, images: Tensor, context: Context) -> View:
        radius = self.smallest + context.integers(self.largest - self.smallest + 1, 1, 1)
        down, across = (self.filter_matrix(side, radius).to(images.dtype) for side in images.shape[2:])
        return View(down[:, None] @ images @ across.transpose(1, 2)[:, None])

    def filter_matrix(self, side: int, radius: Tensor) -> Tensor:
        """(B, side, side): the filter along one axis as a matrix whose rows sum to 1; radius (B, 1, 1)."""
        pixel = torch.arange(side, device=radius.device)
        distance = (pixel - pixel[:, None]).abs()
        weight = torch.exp(-(distance.float() ** 2) / (2 * self.sigma**2)) * (distance <= radius)
        return weight / weight.sum(-1, keepdim=True)
