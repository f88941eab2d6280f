"""Showing blocks instead of hiding them (data2vec 2.0, CAPI)."""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from maskbench.strategy import Context, Grid, Ratio, Strategy, Tensor, View, dataclass, hide, register


@register("inverse-block")
@dataclass(frozen=True, kw_only=True)
class InverseBlock(Strategy):
    """Shows small squares around random centres and hides the rest: what is seen hangs together.

    Baevski, Babu, Hsu, Auli, "data2vec 2.0", ICML 2023, arXiv 2212.07525: squares of `side` patches a side around
    centres drawn with replacement, `adjust` more than the visible share would need, then single patches added or
    removed at random until the count is met. An even side reaches one patch further up and left than down and right. As
    published, small grids have no square at all (by default 5 x 5 patches and fewer), so that single patches are seen.
    Deviations: counts are exact, where the reference's floating-point product sometimes loses one (of 5 x 5 patches it
    shows 4, here 5; of 10 x 10 it shows 19, here 20); grids need not be square. The reference's 16 masks for each image
    belong to the objective.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        side: Side of the squares in patches, 1 or more.
        adjust: Share of the patches, in [0, 1), by which the squares' total area exceeds the share seen.
    """

    version: ClassVar[int] = 2  # 1 drew a square at least, and even sides reached down and right

    ratio: Ratio = 0.8
    side: Annotated[int, Field(ge=1)] = 3
    adjust: Annotated[float, Field(ge=0, lt=1)] = 0.07

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        visible = grid.size - grid.count(self.ratio)
        # As in Grid.count: 1e-9 absorbs the rounding of products that are whole numbers.
        centres = int(grid.size * (1 - self.ratio + self.adjust) / self.side**2 + 1e-9)
        marks = torch.zeros(len(images), grid.size, device=images.device)
        if centres:
            marks.scatter_(1, context.integers(grid.size, centres), 1.0)
        # A patch is seen if a centre lies up to `after` before it or up to `before` behind it.
        before = self.side // 2
        after = self.side - 1 - before
        padded = F.pad(marks.view(-1, 1, grid.rows, grid.cols), (after, before) * 2)
        blocks = F.max_pool2d(padded, self.side, stride=1).flatten(1)
        hidden = ~hide(2 * blocks + context.uniform(grid.size), visible)
        return View(images, hidden, length=visible)


@register("inverse-block-roll")
@dataclass(frozen=True, kw_only=True)
class InverseBlockRoll(Strategy):
    """Shows one block that may run over the edge and come back on the other side: every patch is seen equally often.

    Darcet et al., "Cluster and Predict Latent Patches for Improved Masked Image Modeling" (CAPI), 2025, arXiv
    2502.08769: the block's aspect is log-uniform in the part of [1 / aspect, aspect] in which the block fits the grid,
    it is cut in raster order to the count, and rolled around the torus. Deviations: the count is the common one
    (`Grid.count`), one patch more hidden at most; where no aspect of the range fits (a grid much longer than wide), the
    nearest that does is taken, and the reference fails.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        aspect: Largest ratio of the block's sides, 1 or more.
    """

    version: ClassVar[int] = 2  # 1 drew from the whole range and cut what did not fit: too many full-height blocks

    ratio: Ratio = 0.65
    aspect: Annotated[float, Field(ge=1)] = 2.0

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        visible = grid.size - grid.count(self.ratio)
        low, high = self.log_aspects_that_fit(grid, max(visible, 1))
        aspect = torch.exp(low + (high - low) * context.uniform(1))
        height = (visible * aspect).sqrt().ceil().clamp(max=grid.rows).long()
        width = (visible / aspect).sqrt().ceil().clamp(max=grid.cols).long()
        token = torch.arange(grid.size, device=images.device)
        row = (token // grid.cols - context.integers(grid.rows, 1)) % grid.rows
        col = (token % grid.cols - context.integers(grid.cols, 1)) % grid.cols
        seen = (row < height) & (col < width) & (row * width + col < visible)
        return View(images, ~seen, length=visible)

    def log_aspects_that_fit(self, grid: Grid, area: int) -> tuple[float, float]:
        """The least and the largest logarithm of height / width, such that blocks of `area` patches fit the grid."""
        widest, highest = math.log(area / grid.cols**2), math.log(grid.rows**2 / area)
        limit = math.log(self.aspect)
        return max(widest, min(-limit, highest)), min(highest, max(limit, widest))
