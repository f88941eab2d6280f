"""Rectangles of patches, one after another (BEiT, iBOT, DINOv2)."""

import math
from collections.abc import Iterator
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

    Attributes:
        ratio: Share of the patches to mask, in (0, 1).
        smallest: Least area of a rectangle in patches, 1 or more.
        exact: True: single random patches top the mask up to the count.
    """

    ratio: Ratio = 75 / 196
    smallest: Size = 16
    exact: bool = False

    def __call__(self, images: Tensor, context: Context) -> View:
        count = context.grid.count(self.ratio)
        hidden = draw_rectangles(context, float(count), self.ratio, self.smallest)
        if not self.exact:
            return View(images, hidden)
        return View(images, top_up(hidden, count, context), length=context.grid.size - count)


@register("block-ibot")
@dataclass(frozen=True, kw_only=True)
class BlockIbot(Strategy):
    """BEiT's rectangles at a ratio drawn for each image, and half of the images left whole.

    Zhou et al., "iBOT", ICLR 2022, arXiv 2111.07832: the ratio is uniform in `ratio` with probability `masked`, else 0;
    the smallest rectangle is a third of the grid's shorter side, squared; the count to reach is not rounded, so it is
    missed by up to a patch even where the rectangles fit. No deviation known.

    Attributes:
        ratio: Share of the patches to mask, in (0, 1); a pair: drawn uniformly between the two for each image.
        masked: Probability, in [0, 1], that an image is masked at all.
        exact: True: single random patches top the mask up to the count.
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
        hidden = draw_rectangles(context, ratio * grid.size, high, smallest)
        if self.exact:
            hidden = top_up(hidden, grid.count(low) if low == high else grid.count(ratio), context)
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

    Attributes:
        ratio: Share of the patches to mask, in (0, 1); a pair: spread evenly between the two over the batch.
        masked: Share of the images, in [0, 1], that are masked at all.
        smallest: Least area of a rectangle in patches, 1 or more.
        largest: Largest area of a rectangle as a share of the grid, in (0, 1).
        exact: True: single random patches top the mask up to the count.
        scope: "batch": ratios are spread evenly over the batch; "image": each image draws its own.
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
            masked_images = int(context.batch_size * self.masked)
            place = context.permutation()[:, None]
            ratio = low + (high - low) * (place + drawn[:, :1]) / max(masked_images, 1)
            left_whole = place >= masked_images
        else:
            ratio = low + (high - low) * drawn[:, :1]
            left_whole = drawn[:, 1:] >= self.masked
        count = (grid.size * ratio.double() + 1e-6).long()
        hidden = draw_rectangles(context, count.float(), high, self.smallest, largest=int(grid.size * self.largest))
        if self.exact:
            hidden = top_up(hidden, grid.count(low) if low == high else grid.count(ratio), context)
        if self.masked < 1:
            return View(images, hidden & ~left_whole)
        return View(images, hidden, length=grid.size - grid.count(low) if self.exact and low == high else None)


@dataclass(frozen=True)
class Tries:
    """The random numbers for TRIES rectangles in each image, of which one is to be hidden.

    Attributes:
        area: (B, TRIES) in [0, 1), where the area lies between the smallest and the budget.
        stretch: (B, 2, TRIES) square root of this times the area gives the sides: height and width.
        place: (B, 2, TRIES) in [0, 1), where the rectangle lies in the room that it has: top and left.
    """

    area: Tensor
    stretch: Tensor
    place: Tensor


def draw_tries(context: Context, stages: int) -> Iterator[Tries]:
    """Draw the numbers for all stages at once, and yield those of one after another."""
    area, aspect, top, left = context.uniform(4, stages, TRIES).unbind(1)  # (B, stages, TRIES) each
    log_aspect = math.log(0.3) * (1 - 2 * aspect)
    stretch = torch.stack([log_aspect, -log_aspect], 2).exp()
    place = torch.stack([top, left], 2)
    for stage in range(stages):
        yield Tries(area[:, stage], stretch[:, stage], place[:, stage])


def draw_rectangles(
    context: Context, count: float | Tensor, ratio: float, smallest: int, largest: int | None = None
) -> Tensor:
    """Hide rectangles by BEiT's rule, in all images at once.

    Each stage tries TRIES rectangles. The first that would hide at least one more patch, and no more than are left to
    hide, is painted. An image in which none of the tries does stops for good, as in the reference.

    Args:
        context: Of the strategy.
        count: Patches to hide, a number or (B, 1); may be fractional.
        ratio: The largest share of the patches that `count` may be.
        smallest: Least area of a rectangle in patches.
        largest: Most patches that one rectangle may add; None: as many as are left to hide.

    Returns:
        (B, N) bool, True = hidden.

    Raises:
        ValueError: The grid has a single row or column.
    """
    grid = context.grid
    if min(grid.rows, grid.cols) < 2:
        raise ValueError(
            f"no rectangle fits into {grid.rows} x {grid.cols} patches without spanning them; use smaller patches"
        )
    # Rows and columns go through the same steps in one tensor, (B, 2, TRIES), on a square of the longer side.
    longest = max(grid.rows, grid.cols)
    hidden = torch.zeros(len(context.rows), longest, longest, device=context.device)
    limits = torch.cat([hidden.new_full((1, 1), grid.rows), hidden.new_full((1, 1), grid.cols)])
    room = limits + 1
    least_area = hidden.new_full((), smallest)
    going = hidden.new_ones(len(hidden), 1)  # 0 once an image has stopped
    for tries in draw_tries(context, stage_count(grid.size, ratio, smallest)):
        left = count - hidden.sum((1, 2))[:, None]
        budget = left if largest is None else left.clamp(max=largest)
        area = torch.lerp(least_area, budget, tries.area)
        sides = (area[:, None] * tries.stretch).sqrt().round()
        start = (tries.place * (room - sides)).floor()
        covers = membership(start, sides, longest)
        added = count_added(hidden, sides, covers)
        fits = (sides < limits).all(1) & (added > 0) & (added <= budget)
        first = fits.byte().argmax(1, keepdim=True)
        going = going * fits.gather(1, first)
        hidden = paint(hidden, covers, first, going)
    return hidden[:, : grid.rows, : grid.cols].flatten(1) > 0


def count_added(hidden: Tensor, sides: Tensor, covers: Tensor) -> Tensor:
    """(B, TRIES): patches that each rectangle would add: its area minus its overlap with what is hidden already.

    hidden: (B, L, L). sides: (B, 2, TRIES). covers: (B, 2, TRIES, L), 1 on the rows and columns of the rectangle.
    """
    rows, cols = covers.unbind(1)
    overlap = ((rows @ hidden) * cols).sum(-1)
    return sides.prod(1) - overlap


def paint(hidden: Tensor, covers: Tensor, chosen: Tensor, going: Tensor) -> Tensor:
    """(B, L, L): `hidden` with the rectangle `chosen` (B, 1) added where `going` (B, 1) is 1, shapes as above."""
    index = chosen[:, None, :, None].expand(-1, 2, 1, covers.shape[-1])
    rows, cols = covers.gather(2, index).unbind(1)
    return torch.maximum(hidden, (rows * going[..., None]).mT * cols)


def stage_count(size: int, ratio: float, smallest: int) -> int:
    """Rectangles painted at most, fixed beforehand so that nothing waits for the device: 10 at 75 of 196.

    A fit to what the rule needs without a limit, on grids of 8 x 8 to 32 x 32 with smallest rectangles of 4 and of 16
    patches: up to a ratio of 0.75 at most one image in 300 stops short for it, at 0.9 one in 50.
    """
    return max(7, math.ceil(24 * ratio + 3.5 * math.log2(size) - 1.2 * math.log2(smallest) - 21.3))


def top_up(hidden: Tensor, count: int | Tensor, context: Context) -> Tensor:
    """(B, N) bool: `hidden` with random single patches hidden or shown until every row has `count`."""
    return hide(2 * hidden + context.uniform(context.grid.size), count)
