"""Masks from a network that first helps the objective and later hinders it (CL-MAE)."""

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from maskbench.strategy import (
    Context,
    Grid,
    Ratio,
    StepOutput,
    Strategy,
    Tensor,
    View,
    dataclass,
    hide,
    register,
    scale_gradient,
)

Weight = Annotated[float, Field(ge=0)]


@register("curriculum")
@dataclass(frozen=True, kw_only=True)
class Curriculum(Strategy):
    """Shows the patches that a small transformer rates highest; it is trained as a partner first, an adversary later.

    Madan, Ristea, Nasrollahi, Moeslund, Ionescu, "CL-MAE: Curriculum-Learned Masked Autoencoders", WACV 2024, arXiv
    2308.16572: ratings in (0, 1); the network's share of the objective's loss falls linearly from 1 to -1 over the
    training; `decided` pushes ratings off 0.5, by a Gaussian of standard deviation 0.12, towards 0 or 1; `balanced`
    draws the mean rating of each image to the share seen, by the Kullback-Leibler divergence; `varied` draws the
    ratings of different images apart. Deviations, for which it is experimental: one backward pass, in which the ratings
    of seen patches get the gradient of their content's size, where the reference alternates with a step on all patches
    times their rating; one block, a sixth as wide as the encoder, that rates each patch where it is, instead of five
    whose class token rates all.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        decided: Weight, 0 or more, of the loss that pushes ratings off 0.5.
        balanced: Weight, 0 or more, of the loss that draws an image's mean rating to the share of patches seen.
        varied: Weight, 0 or more, of the loss that draws the ratings of different images apart.
    """

    # 1 had two blocks of width 64, whose positions decayed; 2 had a loss that was flat at 0.5, and balanced the batch.
    version: ClassVar[int] = 3
    experimental = True

    ratio: Ratio = 0.75
    decided: Weight = 1.0
    balanced: Weight = 0.01
    varied: Weight = 2.0

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        return RatingNetwork(grid, sample.shape[1], max(32, dim // 96 * 16))

    def __call__(self, images: Tensor, context: Context) -> View:
        assert isinstance(context.module, RatingNetwork), "made by build"
        grid = context.grid
        rating = context.kept["rating"] = context.module(images)
        count = grid.count(self.ratio)
        hidden = hide(-rating.detach() + 1e-6 * context.uniform(grid.size), count)
        fixed = rating.detach()
        gate = 1 + (rating - fixed) / fixed.clamp_min(1e-6)  # 1; carries the gradient
        gate = scale_gradient(gate, 1 - 2 * context.progress).to(images.dtype)
        return View(images * grid.pixels(gate), hidden, length=grid.size - count)

    def loss(self, view: View, output: StepOutput, context: Context) -> Tensor | None:
        rating = context.gather(context.kept["rating"])
        pairs = max(1, len(rating) * (len(rating) - 1))
        alike = torch.exp(-0.1 * torch.cdist(rating, rating)).sum() - len(rating)  # without each image and itself
        return (
            self.decided * undecided(rating).mean()
            + self.balanced * divergence(rating.mean(1), 1 - self.ratio).mean()
            + self.varied * alike / pairs
        )


def undecided(rating: Tensor, sd: float = 0.12) -> Tensor:
    """Largest where a rating is 0.5: a Gaussian that is divided by the height of its density, as published."""
    return math.sqrt(2 * math.pi) * sd * torch.exp(-((rating - 0.5) ** 2) / (2 * sd**2))


def divergence(mean: Tensor, share: float) -> Tensor:
    """Kullback-Leibler divergence of coins with the chances `mean` (B,) from a coin with the chance `share`."""
    mean = mean.clamp(1e-6, 1 - 1e-6)
    return mean * (mean / share).log() + (1 - mean) * ((1 - mean) / (1 - share)).log()


class RatingNetwork(nn.Module):
    """(B, C, H, W) of any float type to (B, N) float32 in [0, 1], how much each patch should be kept."""

    def __init__(self, grid: Grid, channels: int, width: int) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(channels * grid.patch**2, width)
        self.pos_embed = nn.Parameter(torch.empty(grid.size, width).normal_(std=0.02))  # by this name it does not decay
        self.block = nn.TransformerEncoderLayer(
            width, width // 16, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.rate = nn.Linear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(self.grid.patchify(images.to(self.embed.weight.dtype))) + self.pos_embed
        ratings: Tensor = self.rate(self.block(tokens))[..., 0].float().sigmoid()
        return ratings
