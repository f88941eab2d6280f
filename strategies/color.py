"""Masks from filtered noise (ColorMAE)."""

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register

Sigma = Annotated[float, Field(gt=0, le=8)]


@dataclass(frozen=True, kw_only=True)
class Color(Strategy):
    """Shows the patches where filtered white noise is highest; the filter decides how the seen patches clump.

    Hinojosa, Liu, Ghanem, "ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders", ECCV 2024,
    arXiv 2407.13036. Deviations: noise is drawn and filtered anew for each image, where the reference crops 3,072
    stored patterns, the same crop for the whole batch; its filter widths are not published: `fine` and `coarse` are the
    standard deviations, in patches, of the Gaussians between which a band lies.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        fine: Standard deviation of the narrower Gaussian in patches, in (0, 8].
        coarse: Standard deviation of the wider Gaussian in patches, in (0, 8], above `fine`.
    """

    bands: ClassVar[str]

    ratio: Ratio = 0.75
    fine: Sigma = 0.7
    coarse: Sigma = 1.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fine >= self.coarse:
            raise ValueError(f"{self.name}: fine={self.fine} must be below coarse={self.coarse}")

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        margin = math.ceil(3 * self.coarse)
        noise = context.normal(grid.rows + 2 * margin, grid.cols + 2 * margin)
        count = grid.count(self.ratio)
        hidden = hide(-self.filter_noise(noise, margin).flatten(1), count)
        return View(images, hidden, length=grid.size - count)

    def filter_noise(self, noise: Tensor, margin: int) -> Tensor:
        """(B, rows, cols) from noise (B, rows + 2 * margin, cols + 2 * margin)."""
        white = noise[:, margin:-margin, margin:-margin]
        match self.bands:
            case "low":
                return blur(noise, margin, self.coarse)
            case "high":
                return white - blur(noise, margin, self.fine)
            case "middle":
                return blur(noise, margin, self.fine) - blur(noise, margin, self.coarse)
            case _:  # all but the middle, whose filter peaks below 1 and is raised to it
                middle = blur(noise, margin, self.fine) - blur(noise, margin, self.coarse)
                return white - middle / self.peak_gain()

    def peak_gain(self) -> float:
        """The highest gain of the difference of the two Gaussians over all frequencies, in closed form."""
        fine, coarse = self.fine, self.coarse
        frequency = 4 * math.log(coarse / fine) / (coarse**2 - fine**2)  # squared, where the derivative is zero
        return math.exp(-frequency * fine**2 / 2) - math.exp(-frequency * coarse**2 / 2)


@register("color-red")
@dataclass(frozen=True, kw_only=True)
class ColorRed(Color):
    __doc__ = f"Low-pass noise: seen patches clump in large groups.\n\n{Color.__doc__}"
    bands: ClassVar[str] = "low"


@register("color-blue")
@dataclass(frozen=True, kw_only=True)
class ColorBlue(Color):
    __doc__ = f"High-pass noise: seen patches keep apart.\n\n{Color.__doc__}"
    bands: ClassVar[str] = "high"


@register("color-green")
@dataclass(frozen=True, kw_only=True)
class ColorGreen(Color):
    __doc__ = f"Band-pass noise: seen patches clump in small groups, evenly spread.\n\n{Color.__doc__}"
    bands: ClassVar[str] = "middle"


@register("color-purple")
@dataclass(frozen=True, kw_only=True)
class ColorPurple(Color):
    __doc__ = f"Band-stop noise: seen patches keep apart here and clump there.\n\n{Color.__doc__}"
    bands: ClassVar[str] = "outside"


def blur(noise: Tensor, margin: int, sigma: float) -> Tensor:
    """(B, rows, cols): `noise` (B, rows + 2 * margin, cols + 2 * margin) under a Gaussian of `sigma` patches."""
    across, down = (_gaussian(side - 2 * margin, margin, sigma, noise.device) for side in noise.shape[:0:-1])
    return down @ noise @ across.T


def _gaussian(size: int, margin: int, sigma: float, device: torch.device) -> Tensor:
    """(size, size + 2 * margin): the filter along one axis as a matrix, its rows summing to 1."""
    distance = torch.arange(size + 2 * margin, device=device) - torch.arange(size, device=device)[:, None] - margin
    weight = torch.exp(-(distance.float() ** 2) / (2 * sigma**2))
    return weight / weight.sum(1, keepdim=True)
