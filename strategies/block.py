"""Rectangles of patches, one after another (BEiT, iBOT, DINOv2)."""

import math
from typing import Annotated

import torch
from pydantic import Field

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
    membership,
    register,
)

TRIES = 10  # rectangles tried for one place, as in all three references
Size = Annotated[int, Field(ge=1)]


@register("block")
@dataclass(frozen=True, kw_only=True)
class Block(Strategy):
    """Hides rectangles until the count is reached or none of ten tries fits: whole parts of objects disappear.

    Bao, Dong, Piao, Wei, "BEiT", ICLR 2022, arXiv 2106.08254. As published, a rectangle's area is uniform between
    `smallest` patches and what is still to be hidden, its aspect log-uniform in [0.3, 1 / 0.3], its sides shorter than
    the grid's, and it must add between one patch and what is still to be hidden. So the count is never above, often
    below, and corners are rarely covered. `exact` tops up with single random patches. No deviation known.
    """

    ratio: Ratio = 75 / 196
    smallest: Size = 16
    exact: bool = False

    def __call__(self, images: Tensor, context: Context) -> View:
        count = context.grid.count(self.ratio)
        hidden = rectangles(context, float(count), self.ratio, self.smallest)
        if not self.exact:
            return View(images, hidden)
        return View(images, topped_up(hidden, count, context), length=context.grid.size - count)


@register("block-ibot")
@dataclass(frozen=True, kw_only=True)
class BlockIbot(Strategy):
    """BEiT's rectangles at a ratio drawn for each image, and half of the images left whole.

    Zhou et al., "iBOT", ICLR 2022, arXiv 2111.07832: the ratio is uniform in `ratio` with probability `masked`, else 0;
    the smallest rectangle is a third of the grid's shorter side, squared; the count to reach is not rounded, so it is
    missed by up to a patch even where the rectangles fit. No deviation known.
    """

    ratio: Ratio | RatioRange = (0.1, 0.5)
    masked: Share = 0.5
    exact: bool = False

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        smallest = max(1, (min(grid.rows, grid.cols) // 3) ** 2)
        drawn = context.uniform(2)
        low, high = self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)
        ratio = low + (high - low) * drawn[:, :1]
        hidden = rectangles(context, ratio * grid.size, high, smallest)
        if self.exact:
            hidden = topped_up(hidden, grid.count(low) if low == high else grid.count(ratio), context)
        if self.masked < 1:
            return View(images, hidden & (drawn[:, 1:] < self.masked))
        return View(images, hidden, length=grid.size - grid.count(low) if self.exact and low == high else None)


@register("block-dinov2")
@dataclass(frozen=True, kw_only=True)
class BlockDinov2(Strategy):
    """BEiT's rectangles, small ones allowed, at ratios spread evenly over the batch, half of which is left whole.

    Oquab et al., "DINOv2", 2023, arXiv 2304.07193. As published (scope "batch"), a share `masked` of the batch's images
    is hidden in part, the i-th of them at a ratio drawn from the i-th slice of `ratio`, in random order, which keeps
    the batch's total nearly constant; scope "image" draws each image's ratio by itself. Rectangles have 4 patches to
    half of the grid; the count to reach is int(N * ratio). No deviation known.
    """

    ratio: Ratio | RatioRange = (0.1, 0.5)
    masked: Share = 0.5
    smallest: Size = 4
    largest: Ratio = 0.5
    exact: bool = False
    scope: Scope = "batch"

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        low, high = self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)
        drawn = context.uniform(2)
        if self.scope == "batch":
            chosen = int(context.batch_size * self.masked)
            place = context.permutation()[:, None]
            ratio = low + (high - low) * (place + drawn[:, :1]) / max(chosen, 1)
            kept = place >= chosen
        else:
            ratio = low + (high - low) * drawn[:, :1]
            kept = drawn[:, 1:] >= self.masked
        count = (grid.size * ratio.double() + 1e-6).long()
        hidden = rectangles(context, count.float(), high, self.smallest, largest=int(grid.size * self.largest))
        if self.exact:
            hidden = topped_up(hidden, grid.count(low) if low == high else grid.count(ratio), context)
        if self.masked < 1:
            return View(images, hidden & ~kept)
        return View(images, hidden, length=grid.size - grid.count(low) if self.exact and low == high else None)


def rectangles(
    context: Context, count: float | Tensor, ratio: float, smallest: int, largest: int | None = None
) -> Tensor:
    """(B, N) bool by BEiT's rule, all images and tries at once.

    `count`, a number or (B, 1), is to be hidden, at most the share `ratio` of the grid; it may be fractional. Each
    stage tries TRIES rectangles; what a try would add is its area minus the overlap, from two matrix products of row
    and column memberships; the first that adds between 1 and the rest of the budget is painted. An image with no such
    try stops for good, as in the reference.
    """
    grid = context.grid
    if min(grid.rows, grid.cols) < 2:
        raise ValueError(
            f"no rectangle fits into {grid.rows} x {grid.cols} patches without spanning them; use smaller patches"
        )
    longest = max(grid.rows, grid.cols)  # rows and columns of a rectangle go together in all that follows
    hidden = torch.zeros(len(context.rows), longest, longest, device=context.device)
    limits = torch.cat([hidden.new_full((1, 1), grid.rows), hidden.new_full((1, 1), grid.cols)])
    shares, aspects, *places = context.uniform(4, stages(grid.size, ratio, smallest), TRIES).unbind(1)
    aspects = math.log(0.3) * (1 - 2 * aspects)
    stretches = torch.stack([aspects, -aspects], 2).exp()
    room, least, going = limits + 1, hidden.new_full((), smallest), hidden.new_ones(len(hidden), 1)
    for share, stretch, place in zip(
        *(drawn.unbind(1) for drawn in (shares, stretches, torch.stack(places, 2))), strict=True
    ):
        rest = count - hidden.sum((1, 2))[:, None]
        budget = rest if largest is None else rest.clamp(max=largest)
        area = torch.lerp(least, budget, share)
        sides = (area[:, None] * stretch).sqrt().round()
        lines = membership((place * (room - sides)).floor(), sides, longest)
        rows, cols = lines.unbind(1)
        new = sides.prod(1) - ((rows @ hidden) * cols).sum(-1)
        good = (sides < limits).all(1) & (new > 0) & (new <= budget)
        first = good.byte().argmax(1, keepdim=True)
        going = going * good.gather(1, first)
        rows, cols = lines.gather(2, first[:, None, :, None].expand(-1, 2, 1, longest)).unbind(1)
        hidden = torch.maximum(hidden, (rows * going[..., None]).mT * cols)
    return hidden[:, : grid.rows, : grid.cols].flatten(1) > 0


def stages(size: int, ratio: float, smallest: int) -> int:
    """Rectangles painted at most, fixed beforehand so that nothing waits for the device: 10 at 75 of 196.

    A fit to what the rule needs without a limit, on grids of 8 x 8 to 32 x 32 with smallest rectangles of 4 and of 16
    patches: up to a ratio of 0.75 at most one image in 300 stops short for it, at 0.9 one in 50.
    """
    return max(7, math.ceil(24 * ratio + 3.5 * math.log2(size) - 1.2 * math.log2(smallest) - 21.3))


def topped_up(hidden: Tensor, count: int | Tensor, context: Context) -> Tensor:
    """`hidden` with random single patches hidden or shown until every row has `count`."""
    return hide(2 * hidden + context.uniform(context.grid.size), count)
