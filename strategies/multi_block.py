"""One large block seen, a few smaller ones to recover (I-JEPA)."""

from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field

from maskbench.strategy import Context, Grid, Ratio, Strategy, Tensor, View, dataclass, hide, membership, register

TRIES = 20  # places of the large block, until one target is given up


@register("multi-block")
@dataclass(frozen=True, kw_only=True)
class MultiBlock(Strategy):
    """Shows a large block minus the blocks to recover; whatever lies outside both is dropped.

    Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", CVPR 2023,
    arXiv 2301.08243. As published, sizes are drawn once for the batch, area and aspect of the targets by one and the
    same number, and no block ever touches the last row and column (`edge`=False). Where the large block would show 10
    patches or fewer (on smaller grids than 14 x 14 that share of the patches, rounded down), its place is drawn again,
    up to 20 times; then one target is given up, and so on. `ratio` set: exactly that share is hidden, by showing a
    random part of the large block or more around it, and nothing is drawn again. Deviations: index lists are not cut to
    the batch's shortest, which drops bottom rows; targets are recovered together, not by a predictor call each; of a
    target that is given up, the patches shown are not recovered, where the reference shows and recovers them; the
    reference asks for more than 10 patches on any grid, of every target too, and never ends where a target has fewer,
    which is possible at 8 x 8.

    Attributes:
        targets: Blocks to recover, 1 or more.
        ratio: Share of the patches hidden, in (0, 1); None: as the blocks happen to leave it.
        edge: True: blocks may touch the last row and column, too.
    """

    version: ClassVar[int] = 2  # 1 did not draw again: at 4 x 16 patches 6 % of the images showed nothing

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
        targets = self.draw_blocks(context, self.sides(grid, area, 0.75 + 0.75 * drawn[:, :1]), self.targets).cover(
            grid
        )
        target = targets.any(1)
        large = self.sides(grid, (grid.size * (0.85 + 0.15 * drawn[:, 1:])).floor(), torch.ones_like(area))
        if self.ratio is not None:
            whole = self.draw_blocks(context, large, 1).cover(grid)[:, 0]
            count = grid.count(self.ratio)
            hidden = hide(2 * target + 1 * ~whole + context.uniform(grid.size), count)
            return View(images, hidden, thrown=hidden & ~target, length=grid.size - count)
        seen = show_enough(self.draw_blocks(context, large, TRIES * (self.targets + 1)), targets, grid)
        return View(images, ~seen, thrown=~seen & ~target)

    def sides(self, grid: Grid, area: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1) each, in patches: height and width of blocks of this area and aspect, both less than the grid's."""
        if min(grid.rows, grid.cols) < 2:
            raise ValueError(
                f"no block fits into {grid.rows} x {grid.cols} patches without spanning them; use smaller patches"
            )
        height = (area * aspect).sqrt().round().clamp(1, grid.rows - 1)
        width = (area / aspect).sqrt().round().clamp(1, grid.cols - 1)
        return height, width

    def draw_blocks(self, context: Context, sides: tuple[Tensor, Tensor], number: int) -> "Blocks":
        """`number` blocks of these sides at random places."""
        (height, width), grid = sides, context.grid
        places = context.uniform(2, number)
        top = (places[:, 0] * (grid.rows - height + self.edge)).floor()
        left = (places[:, 1] * (grid.cols - width + self.edge)).floor()
        return Blocks(top, left, height.expand_as(top), width.expand_as(left))


class Blocks(NamedTuple):
    """M rectangles of patches for each image: (B, M) whole numbers each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def cover(self, grid: Grid) -> Tensor:
        """(B, M, N) bool: the patches in each rectangle."""
        rows = membership(self.top, self.height, grid.rows)
        cols = membership(self.left, self.width, grid.cols)
        return (rows[..., :, None] * cols[..., None, :]).flatten(2) > 0

    def count_marked(self, marked: Tensor, grid: Grid) -> Tensor:
        """(B, M): how many `marked` (B, N) patches each rectangle has, from the sums above and left of its corners."""
        sums = marked.float().view(-1, grid.rows, grid.cols).cumsum(1).cumsum(2)
        sums = F.pad(sums, (1, 0, 1, 0)).flatten(1)

        def up_to(row: Tensor, col: Tensor) -> Tensor:
            return sums.gather(1, (row * (grid.cols + 1) + col).long())

        bottom, right = self.top + self.height, self.left + self.width
        return up_to(bottom, right) - up_to(self.top, right) - up_to(bottom, self.left) + up_to(self.top, self.left)


def show_enough(blocks: Blocks, targets: Tensor, grid: Grid) -> Tensor:
    """(B, N) bool: the first of the `blocks` that shows enough, minus the `targets` (B, T, N).

    Of the TRIES * (T + 1) blocks of an image, the first TRIES lose all targets, the next all but the last one, and so
    on; the last TRIES lose nothing, and every one of these shows enough.
    """
    least, number = min(10, 10 * grid.size // 196), targets.shape[1]
    seen = torch.zeros_like(targets[:, 0])
    for kept in range(number + 1):
        start = (number - kept) * TRIES
        tried = Blocks(*(values[:, start : start + TRIES] for values in blocks))
        free = ~targets[:, :kept].any(1)
        enough = tried.count_marked(free, grid) > least
        first = enough.int().argmax(1, keepdim=True)
        shown = Blocks(*(values.gather(1, first) for values in tried)).cover(grid)[:, 0] & free
        seen = torch.where(enough.any(1, keepdim=True), shown, seen)
    return seen
