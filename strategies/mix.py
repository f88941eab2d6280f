"""Two images in one (MixMIM)."""

from typing import Annotated

from pydantic import Field

from maskbench.strategy import Context, Grid, Ratio, Scope, Strategy, Tensor, Term, View, dataclass, hide, register


@register("mix")
@dataclass(frozen=True, kw_only=True)
class Mix(Strategy):
    """Puts another image's content into the cells to recover, the same cells in the whole batch (scope).

    Liu et al., "MixMAE: Mixed and Masked Autoencoder for Efficient Pretraining of Hierarchical Vision Transformers"
    (first named MixMIM), CVPR 2023, arXiv 2205.13137: half of the cells of 32 px, that is 2 patches of 16. Deviations,
    for which it is experimental: the reference keeps attention within each source and recovers both images from one
    encoding; here attention crosses sources and an image's own cells alone are recovered. Partners are drawn among 32
    neighbours, where the reference reverses the batch. Counts of whole cells are rounded up, the reference's down: of
    49 cells 25 show the other image (51.0 %), there 24 (49.0 %); of an even number of cells both take half.

    Attributes:
        ratio: Share of the image that shows the other one and is to be recovered, in (0, 1).
        unit: Side of a cell in patches, 1 or more.
        exact: True: the count of patches is met exactly, if need be within a cell.
        scope: "batch": the same cells in all images; "image": each draws its own.
    """

    experimental = True

    ratio: Ratio = 0.5
    unit: Annotated[int, Field(ge=1)] = 2
    exact: bool = False
    scope: Scope = "batch"

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        if grid.rows % self.unit or grid.cols % self.unit:
            raise ValueError(f"mix: {grid.rows}x{grid.cols} patches do not divide into cells of {self.unit}")
        cells = Grid(grid.rows // self.unit, grid.cols // self.unit, self.unit)
        scores = cells.pixels(context.uniform(cells.size, scope=self.scope).double()).flatten(1)
        count = grid.count(self.ratio) if self.exact else cells.count(self.ratio) * self.unit**2
        # A draw has 24 bits; the patches of a cell differ below that, so that a count may end within a cell.
        mixed = hide(scores + context.uniform(grid.size, scope=self.scope).double() * 2**-24, count)
        other = images[context.partner()]
        return View(other.where(grid.pixels(mixed), images), terms=(Term(weight=mixed),))
