"""Whole columns of patches."""

from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register


@register("vertical-bands")
@dataclass(frozen=True, kw_only=True)
class VerticalBands(Strategy):
    """Hides whole columns: nothing above or below a hidden patch gives its content away."""

    ratio: Ratio = 0.75  # a field is a parameter: checked, recorded, set by vertical-bands:ratio=0.5

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        columns = context.uniform(grid.cols).repeat(1, grid.rows)  # (B, N): one draw per column
        scores = columns + 1e-4 * context.uniform(grid.size)  # for a column hidden in part
        count = grid.count(self.ratio)
        return View(images, hide(scores, count), length=grid.size - count)  # True = hidden
