"""Uniformly random patches (MAE)."""

from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register


@register("random")
@dataclass(frozen=True, kw_only=True)
class Random(Strategy):
    """Hides a uniformly random subset of patches, so that no neighbourhood gives the content away for free.

    He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377. Same distribution and
    count as the reference; kept tokens stay in raster order, which changes nothing since positions are added first.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
    """

    ratio: Ratio = 0.75

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        count = grid.count(self.ratio)
        return View(images, hide(context.uniform(grid.size), count), length=grid.size - count)
