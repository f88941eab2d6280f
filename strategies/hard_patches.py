"""Hiding what is hard to recover, from easy to hard (HPM)."""

from typing import ClassVar

from maskbench.strategy import Context, Ratio, Share, Strategy, Tensor, View, dataclass, hide, register


@register("hard-patches")
@dataclass(frozen=True, kw_only=True)
class HardPatches(Strategy):
    """Hides the patches with the highest loss under the teacher, more of them as training goes on, the rest at random.

    Wang et al., "Hard Patches Mining for Masked Image Modeling", CVPR 2023, arXiv 2304.05919: of the count, the share
    `hardest` * progress is the hardest. Deviation: the loss is measured with the teacher, each patch once while hidden
    among random ones, where the reference predicts it with a head of its own trained to rank.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"patch_loss"})

    ratio: Ratio = 0.75
    hardest: Share = 0.5

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        count = grid.count(self.ratio)
        scores = context.uniform(grid.size)
        chosen = int(count * self.hardest * context.progress + 1e-9)
        if chosen:
            scores = scores + hide(context.patch_loss, chosen)
        return View(images, hide(scores, count), length=grid.size - count)
