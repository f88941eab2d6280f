"""Random patches first, the patches that the teacher looks at last."""

from typing import ClassVar, Self

from maskbench.strategy import Context, Ratio, Share, Strategy, Tensor, View, dataclass, hide, register


@register("follow-the-teacher")
@dataclass(frozen=True, kw_only=True)
class FollowTheTeacher(Strategy):
    """Hides random patches at the start of training and the most attended ones at its end.

    A new teacher attends to nothing in particular, so its attention counts as much as training has
    progressed. Some of the hidden patches are dropped: neither encoded nor decoded, which saves time.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    ratio: Ratio = 0.75
    dropped: Share = 0.2  # share of the hidden patches

    def __call__(self, images: Tensor, context: Context) -> View:
        grid, progress = context.grid, context.progress
        rank = context.attention.argsort(1).argsort(1) / grid.size  # (B, N) in [0, 1), 0 = least
        scores = (1 - progress) * context.uniform(grid.size) + progress * rank
        count = grid.count(self.ratio)
        hidden = hide(scores, count)
        # Hidden patches score at least 1, all others less.
        thrown = hide(hidden + context.uniform(grid.size), int(count * self.dropped))
        return View(images, hidden, thrown=thrown, length=grid.size - count)

    def matched(self, ratio: float) -> Self:
        """In a controlled comparison every hidden patch is recovered, as with other strategies."""
        return self.replace(ratio=ratio, dropped=0.0)
