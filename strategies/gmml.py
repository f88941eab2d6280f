"""Groups of pixels corrupted in place (GMML)."""

from typing import Literal, Self

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

CANDIDATES = 126  # rectangles in a round: float32 has 126 powers of 4 without subnormal numbers


@dataclass(frozen=True)
class Spans:
    """CANDIDATES random spans along one axis of each image, (B, CANDIDATES) int64 each, in cells.

    Attributes:
        start: First cell.
        extent: Number of cells.
        shift: From each span to the one of the same extent whose content fill "self" puts there.
    """

    start: Tensor
    extent: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Rectangles:
    """Random rectangles of each image, in the order in which they cover it.

    Attributes:
        first: (B, N) int32, the number of the first rectangle that covers each of N cells; M if none of the M does.
        shift: (B, M) int64, from each rectangle to the one whose content fill "self" puts there, in cells (row by row).
    """

    first: Tensor
    shift: Tensor


@register("gmml")
@dataclass(frozen=True, kw_only=True)
class Gmml(Strategy):
    """Corrupts rectangles until a share of the image is covered; the encoder sees everything and must undo it.

    Atito, Awais, Nandam, Kittler, "GMML is All you Need", arXiv 2205.14986 (ICIP 2023). An image is either filled
    (`fill`, `ratio`) or, with probability `alien`, given another image's pixels in place (`alien_ratio`). Rectangles
    have sides uniform below `largest` of the image's. As published, `anchors` are top-left corners clipped at the
    bottom and right, and the last aligned row and column are never one: the top left is rarely covered. "uniform"
    is the fair form, in which every cell is covered equally often. `exact` thins the last rectangle to the count.
    Deviations: another image is always another one (the reference may draw the image itself), drawn among 32
    neighbours; "self" copies from the clean image, not from one already corrupted in part.

    Attributes:
        ratio: Share of the image to corrupt, in (0, 1); a pair: drawn uniformly between the two for each image.
        fill: What corrupted pixels become: Gaussian noise, zeros, content from elsewhere in the image ("self") or
            of another image ("alien").
        alien: Probability, in [0, 1], that an image is corrupted by another image's pixels at the same places instead.
        alien_ratio: Share of the image to corrupt in that case, in (0, 1).
        align: "pixel": rectangles lie anywhere; "patch": they consist of whole patches.
        largest: Sides of rectangles are below this share of the image's, in (0, 1).
        anchors: How corners are drawn, "published" or "uniform", see above.
        exact: True: exactly the ratio of the cells is corrupted.
    """

    ratio: Ratio | RatioRange = (0.5, 0.75)
    fill: Literal["noise", "zeros", "self", "alien"] = "noise"
    alien: Share = 0.5
    alien_ratio: Ratio = 0.3
    align: Literal["pixel", "patch"] = "pixel"
    largest: Ratio = 0.3
    anchors: Literal["published", "uniform"] = "published"
    exact: bool = False

    def matched(self, ratio: float) -> Self:
        return self.replace(ratio=ratio, alien_ratio=ratio, align="patch", exact=True)

    def __call__(self, images: Tensor, context: Context) -> View:
        cells = Grid.of(images, context.grid.patch if self.align == "patch" else 1)
        low, high = self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)
        drawn = context.uniform(2)
        alien = drawn[:, :1] < self.alien
        ratio = torch.where(alien, self.alien_ratio, low + (high - low) * drawn[:, 1:])
        # Published anchors leave the top left bare for long: high ratios need more than one round.
        rectangles = self.draw_rectangles(context, cells, rounds=1 if max(high, self.alien_ratio) <= 0.8 else 3)
        covered = self.select_covered(rectangles, ratio, cells, context)
        weight, other = covered.to(images.dtype), alien.to(images.dtype)
        # lerp_ at weights of 0 and 1 is exact, needs no memory, and takes a tenth of the time of torch.where on a CPU.
        corrupted = self.make_content(images, context, cells, rectangles)
        corrupted.lerp_(images, cells.pixels(1 - weight * (1 - other)))
        if self.alien > 0:
            corrupted.lerp_(images[context.partner()], cells.pixels(weight * other))
        return View(corrupted, terms=(Term(weight=weight if self.align == "patch" else cells.pixels(weight)),))

    def draw_rectangles(self, context: Context, cells: Grid, rounds: int) -> Rectangles:
        """Draw `rounds` times CANDIDATES rectangles; those of a later round count only where no earlier one covers."""
        found = [self.draw_round(context, cells) for _ in range(rounds)]
        first = found[0].first
        for number in range(1, rounds):
            first = torch.where(first == number * CANDIDATES, first + found[number].first, first)
        return Rectangles(first, torch.cat([each.shift for each in found], 1))

    def draw_round(self, context: Context, cells: Grid) -> Rectangles:
        """Draw CANDIDATES rectangles, all at once."""
        vertical = self.draw_spans(context, cells.rows, cells.patch)
        horizontal = self.draw_spans(context, cells.cols, cells.patch)
        first = number_of_first_cover(
            membership(vertical.start, vertical.extent, cells.rows),
            membership(horizontal.start, horizontal.extent, cells.cols),
        )
        return Rectangles(first, vertical.shift * cells.cols + horizontal.shift)

    def draw_spans(self, context: Context, cells: int, unit: int) -> Spans:
        """Draw the rectangles' extents along an axis of `cells` cells of `unit` px."""
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
        return Spans(start, extent, source - start)

    def select_covered(self, rectangles: Rectangles, ratio: Tensor, cells: Grid, context: Context) -> Tensor:
        """(B, N) bool: the first rectangles until their union reaches `ratio` (B, 1) of the cells; else all."""
        first = rectangles.first
        if self.exact:
            order = context.uniform(cells.size) - first
            if isinstance(self.ratio, float) and self.alien_ratio == self.ratio:
                return hide(order, cells.count(self.ratio))
            return hide(order, cells.count(ratio))
        number = rectangles.shift.shape[1]
        # How many cells each rectangle adds to those before it; the last entry counts the cells that stay uncovered.
        added = first.new_zeros(len(first), number + 1).scatter_add_(1, first.long(), torch.ones_like(first))
        too_few = (added.cumsum(1) < ratio * cells.size).sum(1, keepdim=True)
        return first <= too_few.clamp(max=number - 1)

    def make_content(self, images: Tensor, context: Context, cells: Grid, rectangles: Rectangles) -> Tensor:
        """(B, C, H, W), new memory: what the covered pixels become."""
        match self.fill:
            case "noise":
                return context.normal(*images.shape[1:]).to(images.dtype)
            case "zeros":
                return torch.zeros_like(images)
            case "self":
                covering = rectangles.first.long().clamp(max=rectangles.shift.shape[1] - 1)
                cell = torch.arange(cells.size, device=images.device)
                source = (cell + rectangles.shift.gather(1, covering)) % cells.size
                values = cells.patchify(images)
                return cells.unpatchify(values.gather(1, source[..., None].expand_as(values)))
            case "alien":
                return images[context.partner()]


def number_of_first_cover(rows: Tensor, cols: Tensor) -> Tensor:
    """The number of the first rectangle that covers each cell, CANDIDATES where none does.

    One matrix product finds it for all cells: rectangle m gets the weight 4**-m, and a cell the sum of the weights of
    the rectangles that cover it. All later rectangles together weigh less than a third of the first one, so the sum is
    at least 4**-m and below 2 * 4**-m. Its exponent of 2, read from the bits of the float32, is -2 m exactly. (All
    weights are 4**62 times as large, so that none is subnormal.)

    Example, for a cell that rectangles 2 and 3 cover:
        sum = 4**60 + 4**59 = 1.25 * 2**120       the bits of its exponent hold 127 + 120 = 247
        (247 - 127) >> 1 = 60,  62 - 60 = 2       the first one
        no rectangle: sum = 0, bits 0             62 - (-127 >> 1) = 126 = CANDIDATES
    tests/strategies/test_gmml.py::test_first_cover_is_that_of_the_plain_loop holds it to a plain loop.

    Args:
        rows: (B, M, rows) float32, 1 where a rectangle covers the row, else 0; M = CANDIDATES.
        cols: (B, M, cols) float32, the same for columns.

    Returns:
        (B, rows * cols) int32 in [0, CANDIDATES].
    """
    weight = torch.exp2(2.0 * (62 - torch.arange(CANDIDATES, device=rows.device)))
    sums = (rows * weight[:, None]).transpose(1, 2) @ cols
    exponent = (sums.flatten(1).view(torch.int32) >> 23).sub_(127)
    return exponent.bitwise_right_shift_(1).neg_().add_(62)
