"""Hiding by a teacher's attention (AttMask)."""

from typing import ClassVar

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


@register("attmask-high")
@dataclass(frozen=True, kw_only=True)
class AttmaskHigh(Strategy):
    """Hides the patches that the teacher attends to most, so that the student must guess the telling ones.

    Kakogeorgiou et al., "What to Hide from Your Students", ECCV 2022, arXiv 2203.12719. As published, one ratio is
    drawn for the whole batch (scope) and an image is left clean with probability 1 - masked. Deviation: the count is
    the common one (`Grid.count`), which hides one patch more than the reference's int(N * ratio) at most ratios.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    ratio: Ratio | RatioRange = (0.1, 0.5)
    masked: Share = 0.5
    scope: Scope = "batch"

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        if isinstance(self.ratio, tuple):
            ratio = context.uniform(1, low=self.ratio[0], high=self.ratio[1], scope=self.scope)
            hidden = hide(context.attention, grid.count(ratio))
        else:
            hidden = hide(context.attention, grid.count(self.ratio))
        if self.masked < 1:
            return View(images, hidden & (context.uniform(1) < self.masked))
        return View(
            images, hidden, length=None if isinstance(self.ratio, tuple) else grid.size - grid.count(self.ratio)
        )
