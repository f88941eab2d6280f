"""Groups of pixels corrupted in place (GMML)."""

from typing import Literal

import torch

from maskbench.strategy import (
    Context,
    Grid,
    Ratio,
    RatioRange,
    Share,
    Strategy,
    Tensor,
    Term,
    View,
    dataclass,
    hide,
    membership,
    register,
)

CANDIDATES = 126  # rectangles a round: as many powers of 4 as float32 holds apart


@register("gmml")
@dataclass(frozen=True, kw_only=True)
class Gmml(Strategy):
    """Corrupts rectangles until a share of the image is covered; the encoder sees everything and must undo it.

    Atito, Awais, Nandam, Kittler, "GMML is All you Need", arXiv 2205.14986 (ICIP 2023). An image is either filled
    (`fill`, `ratio`) or, with probability `alien`, given another image's pixels in place (`alien_ratio`). Rectangles
    have sides uniform below `largest` of the image's. As published, `anchors` are top-left corners clipped at the
    bottom and right, and the last aligned row and column are never one: the top left is rarely covered. "uniform"
    is the clean form, in which every cell is covered equally often. `exact` thins the last rectangle to the count.
    Deviations: another image is always another one (the reference may draw the image itself), drawn among 32
    neighbours; "self" copies from the clean image, not from one already corrupted in part.
    """

    ratio: Ratio | RatioRange = (0.5, 0.75)
    fill: Literal["noise", "zeros", "self", "alien"] = "noise"
    alien: Share = 0.5
    alien_ratio: Ratio = 0.3
    align: Literal["pixel", "patch"] = "pixel"
    largest: Ratio = 0.3
    anchors: Literal["published", "uniform"] = "published"
    exact: bool = False

    def matched(self, ratio: float) -> "Gmml":
        return self.replace(ratio=ratio, alien_ratio=ratio, align="patch", exact=True)

    def __call__(self, images: Tensor, context: Context) -> View:
        cells = Grid.of(images, context.grid.patch if self.align == "patch" else 1)
        low, high = self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)
        drawn = context.uniform(2)
        alien = drawn[:, :1] < self.alien
        ratio = torch.where(alien, self.alien_ratio, low + (high - low) * drawn[:, 1:])
        rounds = 1 if max(high, self.alien_ratio) <= 0.8 else 3  # published anchors leave the top left bare for long
        rank, shifts = self.rectangles(context, cells, rounds)
        covered = self.cut(rank, ratio, cells, context, rounds * CANDIDATES - 1)
        weight, other = covered.to(images.dtype), alien.to(images.dtype)
        # lerp_ at weights of 0 and 1 is exact, needs no memory, and takes a tenth of the time of torch.where on a CPU.
        corrupted = self.content(images, context, cells, rank, shifts)
        corrupted.lerp_(images, cells.pixels(1 - weight * (1 - other)))
        if self.alien > 0:
            corrupted.lerp_(images[context.partner()], cells.pixels(weight * other))
        return View(corrupted, terms=(Term(weight=weight if self.align == "patch" else cells.pixels(weight)),))

    def rectangles(self, context: Context, cells: Grid, rounds: int) -> tuple[Tensor, Tensor]:
        """rounds * CANDIDATES random rectangles in order. rank (B, cells) int32: the first that covers each cell, one
        past the last where none does. shifts (B, rounds * CANDIDATES): how far away a rectangle's "self" content lies,
        in cells."""
        ranks, shifts = zip(*(self.one_round(context, cells) for _ in range(rounds)), strict=True)
        rank = ranks[0]
        for number in range(1, rounds):
            rank = torch.where(rank == number * CANDIDATES, rank + ranks[number], rank)
        return rank, torch.cat(shifts, 1)

    def one_round(self, context: Context, cells: Grid) -> tuple[Tensor, Tensor]:
        """Rank and shifts of CANDIDATES rectangles, all at once.

        The product of the rectangles' row and column memberships, rectangle m weighing 4**-m, is a number whose
        exponent is that of the first rectangle that covers the cell: the sum of all later ones is below a third of it.
        """
        top, height, row_shift = self.spans(context, cells.rows, cells.patch)
        left, width, col_shift = self.spans(context, cells.cols, cells.patch)
        rows, cols = membership(top, height, cells.rows), membership(left, width, cells.cols)
        power = torch.exp2(2.0 * (62 - torch.arange(CANDIDATES, device=rows.device)))
        sums = (rows * power[:, None]).transpose(1, 2) @ cols
        exponent = (sums.flatten(1).view(torch.int32) >> 23).sub_(127)  # -127 where no rectangle is
        return exponent.bitwise_right_shift_(1).neg_().add_(62), row_shift * cells.cols + col_shift

    def spans(self, context: Context, cells: int, unit: int) -> tuple[Tensor, Tensor, Tensor]:
        """Start, extent and shift along one axis, (B, CANDIDATES) each, in cells."""
        side = cells * unit
        most = int(self.largest * side)
        if most <= unit:
            raise ValueError(
                f"gmml: largest={self.largest:g} of {side} px allows blocks below {most} px, not above the {unit} px "
                f"they are aligned to; raise largest or use align=pixel"
            )
        extent = unit + context.integers(most - unit, CANDIDATES)
        if self.anchors == "published":
            start = context.integers(side - unit, CANDIDATES) // unit
            extent = torch.minimum(extent, side - start * unit)
            extent = (extent / unit).round().long()
        else:
            extent = (extent / unit).round().long()
            start = context.integers(cells + extent - 1, CANDIDATES) - (extent - 1)
            end = (start + extent).clamp(max=cells)
            start = start.clamp(min=0)
            extent = end - start
        source = context.integers(cells - extent + 1, CANDIDATES)
        return start, extent, source - start

    def cut(self, rank: Tensor, ratio: Tensor, cells: Grid, context: Context, last: int) -> Tensor:
        """(B, cells) bool: the first rectangles whose union reaches `ratio` (B, 1) of the cells; all if none does."""
        if self.exact:
            order = context.uniform(cells.size) - rank
            if isinstance(self.ratio, float) and self.alien_ratio == self.ratio:
                return hide(order, cells.count(self.ratio))
            return hide(order, cells.count(ratio))
        counts = rank.new_zeros(len(rank), last + 2).scatter_add_(1, rank.long(), torch.ones_like(rank))
        short = (counts.cumsum(1) < ratio * cells.size).sum(1, keepdim=True)  # of the first ranks, too few are covered
        return rank <= short.clamp(max=last)

    def content(self, images: Tensor, context: Context, cells: Grid, rank: Tensor, shifts: Tensor) -> Tensor:
        """(B, C, H, W), new memory: what the covered pixels become."""
        match self.fill:
            case "noise":
                return context.normal(*images.shape[1:]).to(images.dtype)
            case "zeros":
                return torch.zeros_like(images)
            case "self":
                shift = shifts.gather(1, rank.long().clamp(max=shifts.shape[1] - 1))
                source = (torch.arange(cells.size, device=images.device) + shift) % cells.size
                values = cells.patchify(images)
                return cells.unpatchify(values.gather(1, source[..., None].expand_as(values)))
            case "alien":
                return images[context.partner()]
