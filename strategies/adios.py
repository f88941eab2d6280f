"""Soft masks drawn by a network that is trained to make the objective fail (ADIOS)."""

import itertools
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from maskbench.strategy import (
    Context,
    Grid,
    Positive,
    StepOutput,
    Strategy,
    Tensor,
    Term,
    View,
    dataclass,
    register,
    scale_gradient,
)


@register("adios")
@dataclass(frozen=True, kw_only=True)
class Adios(Strategy):
    """Dims the pixels that a mask network gives to one of `slots` soft parts of the image, so as to hurt the most.

    Shi, Siddharth, Torr, Kosiorek, "Adversarial Masking for Self-Supervised Learning", ICML 2022, arXiv 2201.13100: the
    parts of a pixel sum to 1; the image is multiplied by 1 - part; the network climbs where the encoder descends, held
    back by `penalty` / sin(pi * the part's area), which keeps parts from covering nothing or all. Deviations, for which
    it is experimental: one part is drawn for each image and step, where the reference encodes all of them; one backward
    pass with the network's gradient reversed, where it alternates two; a smaller U-Net. `slots` and `penalty` are the
    defaults of the reference's command line; its published commands have 4 or 6 parts and tune the penalty for each
    setting (0 once, otherwise 0.2 to 1.72). Its penalty on the entropy of the areas, off in nearly all of them, is
    left out.

    Attributes:
        slots: Soft parts into which the network splits an image, 2 to 16.
        penalty: Weight, above 0, of the penalty on parts that cover nothing or all.
    """

    # 1 summed the penalties of several crops, and had none where a part had vanished; 2 had 4 slots and penalty 0.1.
    version: ClassVar[int] = 3
    experimental = True

    slots: Annotated[int, Field(ge=2, le=16)] = 6
    penalty: Positive = 1.0

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        return MaskNetwork(sample.shape[1], self.slots)

    def __call__(self, images: Tensor, context: Context) -> View:
        assert context.module is not None, "made by build"
        parts = context.module(images).to(images.dtype)
        drawn = context.integers(self.slots, 1)[:, :, None, None]
        part = scale_gradient(parts.gather(1, drawn.expand(-1, 1, *parts.shape[2:])), -1)
        return View(images * (1 - part), terms=(Term(weight=part),))

    def loss(self, view: View, output: StepOutput, context: Context) -> Tensor | None:
        weight = view.terms[0].weight
        assert weight is not None, "the view is complete"
        area = scale_gradient(weight.float(), -1).mean((1, 2, 3))  # reversed twice: this the network descends
        area = area + (area.clamp(1e-3, 1 - 1e-3) - area).detach()  # beyond these the push back stays as it is there
        return self.penalty * (torch.pi * area).sin().reciprocal().mean()


class MaskNetwork(nn.Module):
    """(B, C, H, W) of any float type to (B, slots, H, W), the parts of each pixel, in the type of the weights.

    They come from three levels, at a half of the resolution and below.
    """

    def __init__(self, channels: int, slots: int, width: int = 32) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 2 * width]
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.part = nn.ModuleList(nn.Conv2d(after, slots, 3, padding=1) for after in widths[1:])

    def forward(self, images: Tensor) -> Tensor:
        level = images.to(next(self.parameters()).dtype)
        parts = level.new_zeros(())
        for down, part in zip(self.down, self.part, strict=True):
            level = F.gelu(down(level))
            parts = parts + F.interpolate(part(level), images.shape[2:], mode="bilinear")
        return parts.softmax(1)
