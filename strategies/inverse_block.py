"""Showing blocks instead of hiding them (data2vec 2.0, CAPI)."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register


@register("inverse-block")
@dataclass(frozen=True, kw_only=True)
class InverseBlock(Strategy):
    """Shows small squares around random centres and hides the rest: what is seen hangs together.

    Baevski, Babu, Hsu, Auli, "data2vec 2.0", ICML 2023, arXiv 2212.07525: squares of `side` patches a side around
    centres drawn with replacement, `adjust` more than the visible share would need, then single patches added or
    removed at random until the count is met. No deviation known; the reference's 16 masks for each image belong to the
    objective.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        side: Side of the squares in patches, 1 or more.
        adjust: Share of the patches, in [0, 1), by which the squares' total area exceeds the share seen.
    """

    ratio: Ratio = 0.8
    side: Annotated[int, Field(ge=1)] = 3
    adjust: Annotated[float, Field(ge=0, lt=1)] = 0.07

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        visible = grid.size - grid.count(self.ratio)
        centres = max(1, int(grid.size * (1 - self.ratio + self.adjust) / self.side**2))
        marks = torch.zeros(len(images), grid.size, device=images.device)
        marks.scatter_(1, context.integers(grid.size, centres), 1.0)
        before = self.side // 2
        padded = F.pad(marks.view(-1, 1, grid.rows, grid.cols), (before, self.side - 1 - before) * 2)
        blocks = F.max_pool2d(padded, self.side, stride=1).flatten(1)
        hidden = ~hide(2 * blocks + context.uniform(grid.size), visible)
        return View(images, hidden, length=visible)


@register("inverse-block-roll")
@dataclass(frozen=True, kw_only=True)
class InverseBlockRoll(Strategy):
    """Shows one block that may run over the edge and come back on the other side: every patch is seen equally often.

    Darcet et al., "Cluster and Predict Latent Patches for Improved Masked Image Modeling" (CAPI), 2025, arXiv
    2502.08769: the block's aspect is log-uniform in [1 / aspect, aspect], it is cut in raster order to the count, and
    rolled around the torus. Deviation: the count is the common one (`Grid.count`), one patch more hidden at most.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        aspect: Largest ratio of the block's sides, 1 or more.
    """

    ratio: Ratio = 0.65
    aspect: Annotated[float, Field(ge=1)] = 2.0

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        visible = grid.size - grid.count(self.ratio)
        aspect = torch.exp((2 * context.uniform(1) - 1) * math.log(self.aspect))
        aspect = aspect.clamp(visible / grid.cols**2, grid.rows**2 / max(visible, 1))  # both sides fit the grid
        height = (visible * aspect).sqrt().ceil().clamp(max=grid.rows).long()
        width = (visible / aspect).sqrt().ceil().clamp(max=grid.cols).long()
        token = torch.arange(grid.size, device=images.device)
        row = (token // grid.cols - context.integers(grid.rows, 1)) % grid.rows
        col = (token % grid.cols - context.integers(grid.cols, 1)) % grid.cols
        seen = (row < height) & (col < width) & (row * width + col < visible)
        return View(images, ~seen, length=visible)
