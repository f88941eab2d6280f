"""One large block seen, a few smaller ones to recover (I-JEPA)."""

from typing import Annotated

import torch
from pydantic import Field

from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, membership, register


@register("multi-block")
@dataclass(frozen=True, kw_only=True)
class MultiBlock(Strategy):
    """Shows a large block minus the blocks to recover; whatever lies outside both is dropped.

    Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", CVPR 2023,
    arXiv 2301.08243. As published, sizes are drawn once for the batch, area and aspect of the targets by one and the
    same number, and no block ever touches the last row and column (`edge`=False). `ratio` set: exactly that share is
    hidden, by showing a random part of the large block or more around it. Deviations: index lists are not cut to the
    batch's shortest, which drops bottom rows; targets are recovered together, not by a predictor call each; an image
    is not drawn again where fewer than 10 patches are seen.

    Attributes:
        targets: Blocks to recover, 1 or more.
        ratio: Share of the patches hidden, in (0, 1); None: as the blocks happen to leave it.
        edge: True: blocks may touch the last row and column, too.
    """

    targets: Annotated[int, Field(ge=1)] = 4
    ratio: Ratio | None = None
    edge: bool = False

    @property
    def covers_all(self) -> bool:
        return self.edge

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        drawn = context.uniform(2, scope="batch")
        area = (grid.size * (0.15 + 0.05 * drawn[:, :1])).floor()
        target = self.draw_blocks(context, area, 0.75 + 0.75 * drawn[:, :1], self.targets)
        whole = self.draw_blocks(context, (grid.size * (0.85 + 0.15 * drawn[:, 1:])).floor(), torch.ones_like(area), 1)
        seen = whole & ~target
        if self.ratio is None:
            return View(images, ~seen, thrown=~seen & ~target)
        count = grid.count(self.ratio)
        hidden = hide(2 * target + 1 * ~whole + context.uniform(grid.size), count)
        return View(images, hidden, thrown=hidden & ~target, length=grid.size - count)

    def draw_blocks(self, context: Context, area: Tensor, aspect: Tensor, number: int) -> Tensor:
        """(B, N) bool: the union of `number` blocks of this size (B, 1) at random places."""
        grid = context.grid
        if min(grid.rows, grid.cols) < 2:
            raise ValueError(
                f"no block fits into {grid.rows} x {grid.cols} patches without spanning them; use smaller patches"
            )
        height = (area * aspect).sqrt().round().clamp(1, grid.rows - 1)
        width = (area / aspect).sqrt().round().clamp(1, grid.cols - 1)
        places = context.uniform(2, number)
        top = (places[:, 0] * (grid.rows - height + self.edge)).floor()
        left = (places[:, 1] * (grid.cols - width + self.edge)).floor()
        rows = membership(top, height.expand_as(top), grid.rows)
        cols = membership(left, width.expand_as(left), grid.cols)
        return (rows.transpose(1, 2) @ cols).flatten(1) > 0
