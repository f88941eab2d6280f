"""Uniformly random patches (MAE)."""

from typing import Self

from maskbench.strategy import (
    Context,
    Ratio,
    RatioRange,
    Scope,
    Share,
    Strategy,
    Tensor,
    View,
    dataclass,
    hide,
    register,
)


@register("random")
@dataclass(frozen=True, kw_only=True)
class Random(Strategy):
    """Hides a uniformly random subset of patches, so that no neighbourhood gives the content away for free.

    He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377. Same distribution and
    count as the reference; kept tokens stay in raster order, which changes nothing since positions are added first.

    With the ranges of another strategy it is that strategy's control: it hides as much, and anything. The control of
    `attmask-high` is `random:ratio=[0.1,0.5]:masked=0.5:scope=batch`.

    Attributes:
        ratio: Share of the patches masked, in (0, 1); a pair: drawn uniformly between the two.
        masked: Probability, in [0, 1], that an image is masked at all. None: every image is.
        scope: Of a pair. "batch": one ratio is drawn for all images; "image", and None: one for each.
    """

    ratio: Ratio | RatioRange = 0.75
    masked: Share | None = None  # None, and not 1, so that the names of finished runs stay as they are
    scope: Scope | None = None

    def matched(self, ratio: float) -> Self:
        return self.replace(ratio=ratio)

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        scores = context.uniform(grid.size)
        if isinstance(self.ratio, tuple):
            low, high = self.ratio
            ratios = context.uniform(1, low=low, high=high, scope=self.scope or "image")
            view = View(images, hide(scores, grid.count(ratios)))
        else:
            count = grid.count(self.ratio)
            view = View(images, hide(scores, count), length=grid.size - count)
        if self.masked is None:
            return view
        assert view.hidden is not None, "just drawn"
        return View(images, view.hidden & (context.uniform(1) < self.masked))
