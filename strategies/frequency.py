"""A part of the spectrum removed (MFM)."""

from typing import ClassVar

import torch

from maskbench.strategy import Context, Positive, Share, Strategy, Tensor, Term, View, dataclass, register


@register("frequency")
@dataclass(frozen=True, kw_only=True)
class Frequency(Strategy):
    """Shows only the low or only the high frequencies; the removed ones must be recovered.

    Xie et al., "Masked Frequency Modeling for Self-Supervised Visual Pre-Training" (MFM), ICLR 2023, arXiv 2206.07706:
    a hard circle of `radius` cycles a pixel (16 of 224), its inside removed with probability `high`, else its outside,
    to which the circle itself belongs; the error is taken over the removed frequencies alone. Deviations: the error is
    the objective's, of real and imaginary parts, where the reference takes the distance of complex numbers; the
    degraded image is not clamped to [0, 1], which in the reference cuts off the negative half of every high-pass image.

    Attributes:
        radius: Radius of the circle in cycles a pixel, above 0; 0.5 is the highest frequency along an axis.
        high: Probability, in [0, 1], that only high frequencies are shown.
    """

    version: ClassVar[int] = 2  # 1 counted the circle itself as inside: 797 of 224 x 224 frequencies, not 793

    radius: Positive = 16 / 224
    high: Share = 0.5

    def __call__(self, images: Tensor, context: Context) -> View:
        height, width = images.shape[2:]
        rows = torch.fft.fftfreq(height, device=images.device)[:, None]
        cols = torch.fft.rfftfreq(width, device=images.device)
        # The circle itself is outside; the tolerance keeps rounding from deciding who lies on it.
        inside = rows.square() + cols.square() < self.radius**2 * (1 - 1e-6)
        high = context.uniform(1, 1) < self.high
        removed = inside == high  # (B, H, W // 2 + 1): half of the spectrum of a real image says all
        spectrum = torch.fft.rfft2(images.float(), norm="ortho") * ~removed[:, None]
        shown = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho").to(images.dtype)
        twice = torch.where((cols == 0) | (cols == 0.5), 1.0, 2.0)  # the columns whose mirror image is left out
        return View(shown, terms=(Term(weight=(removed * twice)[:, None], warp=spectrum_of, warp_target=True),))


def spectrum_of(images: Tensor) -> Tensor:
    """(B, 2 * C, H, W // 2 + 1): real and imaginary parts, whose squared errors add up to the complex distance."""
    spectrum = torch.fft.rfft2(images.float(), norm="ortho")
    return torch.cat([spectrum.real, spectrum.imag], 1)
