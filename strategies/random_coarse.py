"""Uniformly random cells of several patches (SimMIM)."""

from typing import Annotated

from pydantic import Field

from maskbench.strategy import Context, Grid, Ratio, Strategy, Tensor, View, dataclass, hide, register


@register("random-coarse")
@dataclass(frozen=True, kw_only=True)
class RandomCoarse(Strategy):
    """Hides a uniformly random subset of cells of `unit` x `unit` patches: what is hidden is harder to fill in from
    its neighbours.

    Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv 2111.09886: cells of 32 px,
    that is 2 patches of 16. Whole cells round the count up, 0.6 to 120 of 196 patches; `exact` shows a part of the last
    cell to meet the patches' count. No deviation known.

    Attributes:
        ratio: Share of the cells masked, in (0, 1).
        unit: Side of a cell in patches, 1 or more.
        exact: True: the count of patches is met exactly, within a cell if need be.
    """

    ratio: Ratio = 0.6
    unit: Annotated[int, Field(ge=1)] = 2
    exact: bool = False

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        if grid.rows % self.unit or grid.cols % self.unit:
            raise ValueError(f"random-coarse: {grid.rows}x{grid.cols} patches do not divide into cells of {self.unit}")
        cells = Grid(grid.rows // self.unit, grid.cols // self.unit, self.unit)
        scores = context.uniform(cells.size)
        if self.exact:
            # A draw has 24 bits; the patches of a cell differ below that.
            scores = cells.pixels(scores.double()).flatten(1) + context.uniform(grid.size).double() * 2**-24
            count = grid.count(self.ratio)
            return View(images, hide(scores, count), length=grid.size - count)
        count = cells.count(self.ratio)
        hidden = cells.pixels(hide(scores, count)).flatten(1)
        return View(images, hidden, length=grid.size - count * self.unit**2)
