"""Hiding and throwing away by attention (AMT)."""

from typing import ClassVar, Self

from maskbench.strategy import Context, Ratio, Share, Strategy, Tensor, View, dataclass, hide, register


@register("attention-throw")
@dataclass(frozen=True, kw_only=True)
class AttentionThrow(Strategy):
    """Draws patches in proportion to attention: the first are masked, the next dropped, the last seen.

    Liu, Gui, Luo, "Good helper is around you: Attention-driven Masked Image Modeling", AAAI 2023, arXiv 2211.15362. Of
    the patches, 45 % are masked and 40 % dropped, drawn without replacement with probability proportional to attention.
    Before `start` of the training, 75 % are masked at random and none is dropped. Deviations: the attention is the
    teacher's on the crop itself, where the reference refreshes a map for each image every 40 epochs (and reads the
    wrong corner of it when it crops); heads are averaged as they are, where the reference first brings each to [0, 1];
    counts are the common ones (`Grid.count`), where the reference truncates (88 masked and 78 dropped of 196).

    Attributes:
        ratio: Share of the patches hidden, masked and dropped together, in (0, 1).
        predicted: Share of the patches masked, in (0, 1); the other hidden ones are dropped.
        start: Share of the training, in [0, 1], before which attention counts for nothing.
        start_ratio: Share of the patches masked before `start`, in (0, 1); none is dropped then.
    """

    version: ClassVar[int] = 2  # 1 dropped patches before `start`, too
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    ratio: Ratio = 0.85
    predicted: Ratio = 0.45
    start: Share = 0.1
    start_ratio: Ratio = 0.75

    def matched(self, ratio: float) -> Self:
        return self.replace(ratio=ratio, predicted=ratio * self.predicted / self.ratio, start_ratio=ratio)

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        drawn = context.uniform(grid.size)
        if context.progress < self.start:
            count = grid.count(self.start_ratio)
            return View(images, hide(drawn, count), length=grid.size - count)
        # The Gumbel-top-k trick: the order of log weight + Gumbel noise is a draw without replacement.
        gumbel = -(-drawn.clamp(2**-24, 1 - 2**-24).log()).log()
        scores = context.attention.float().clamp_min(1e-12).log() + gumbel  # 1e-12 is 0 in half precision
        count = grid.count(self.ratio)
        hidden = hide(scores, count)
        thrown = hidden & ~hide(scores, min(count, grid.count(self.predicted)))
        return View(images, hidden, thrown=thrown, length=grid.size - count)
