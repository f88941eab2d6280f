"""Hiding by a teacher's attention (AttMask)."""

from typing import ClassVar

import torch

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


@dataclass(frozen=True, kw_only=True)
class AttMask(Strategy):
    """What the three have in common: how much is masked.

    Kakogeorgiou et al., "What to Hide from Your Students: Attention-Guided Masked Image Modeling", ECCV 2022, arXiv
    2203.12719. One ratio is drawn for the whole batch (`scope`), and an image is left as it is with probability
    1 - `masked`. Deviation: the count is the common one (`Grid.count`), where the reference's int(N * ratio) hides one
    patch fewer.

    Attributes:
        ratio: Share of the patches masked, in (0, 1); a pair: drawn uniformly between the two.
        masked: Probability, in [0, 1], that an image is masked at all.
        scope: "batch": one ratio is drawn for all images; "image": one for each.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    ratio: Ratio | RatioRange = (0.1, 0.5)
    masked: Share = 0.5
    scope: Scope = "batch"

    def draw_ratio(self, context: Context) -> Tensor:
        """(B, 1) ratios, equal if the ratio is no pair."""
        low, high = self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)
        return context.uniform(1, low=low, high=high, scope=self.scope)

    def draw_count(self, context: Context) -> int | Tensor:
        """Patches to mask: a number, or (B, 1) if the ratio is a pair."""
        return context.grid.count(self.draw_ratio(context) if isinstance(self.ratio, tuple) else self.ratio)

    def make_view(self, images: Tensor, context: Context, hidden: Tensor, count: int | Tensor) -> View:
        """The view that masks `hidden` (B, N), `count` patches a row, in the images that are masked at all."""
        if self.masked < 1:
            return View(images, hidden & (context.uniform(1) < self.masked))
        return View(images, hidden, length=context.grid.size - count if isinstance(count, int) else None)


@register("attmask-high")
@dataclass(frozen=True, kw_only=True)
class AttMaskHigh(AttMask):
    """Hides the patches that the teacher attends to most, so that the student must guess what matters most."""

    def __call__(self, images: Tensor, context: Context) -> View:
        count = self.draw_count(context)
        return self.make_view(images, context, hide(context.attention, count), count)


@register("attmask-low")
@dataclass(frozen=True, kw_only=True)
class AttMaskLow(AttMask):
    """Hides the patches that the teacher attends to least: the paper's counter-example, close to what MST hides."""

    def __call__(self, images: Tensor, context: Context) -> View:
        count = self.draw_count(context)
        return self.make_view(images, context, hide(-context.attention, count), count)


@register("attmask-hint")
@dataclass(frozen=True, kw_only=True)
class AttMaskHint(AttMask):
    """attmask-high that gives hints away: of the `shown` share most attended, some are revealed.

    As published, the number revealed is int(N * shown * r) with a second, independent draw r of the ratio, so an image
    hides that many fewer; `exact` hides as many others instead.

    Attributes:
        shown: Share of the patches, in (0, 1), the most attended, among which hints are chosen.
        exact: True: as many patches are masked as `ratio` says, whatever the hints.
    """

    shown: Ratio = 0.1
    exact: bool = False

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        count = self.draw_count(context)
        top = int(grid.size * self.shown + 1e-9)
        revealed = (grid.size * self.shown * self.draw_ratio(context).double() + 1e-6).long()
        hints = hide(hide(context.attention, top) + context.uniform(grid.size), revealed)
        if self.exact:
            hidden = hide(context.attention.masked_fill(hints, -torch.inf), count)
        else:
            hidden = hide(context.attention, count) & ~hints
        return self.make_view(images, context, hidden, count if self.exact else count - revealed)
