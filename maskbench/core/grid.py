"""Patches of an image: how many, how many to hide, and the way between patches and pixels."""

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The patches (tokens) of an image, numbered row by row from the top left: token i is at divmod(i, cols).

    Attributes:
        rows: Patches from top to bottom.
        cols: Patches from left to right.
        patch: Side of a square patch in pixels.
    """

    rows: int
    cols: int
    patch: int

    @property
    def size(self) -> int:
        """Number of tokens, N = rows * cols."""
        return self.rows * self.cols

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.rows * self.patch, self.cols * self.patch

    @classmethod
    def of(cls, images: Tensor, patch: int) -> "Grid":
        """The grid of images.

        Args:
            images: (..., H, W).
            patch: Side of a patch in pixels.

        Raises:
            ValueError: A side of the images is no multiple of `patch`.
        """
        height, width = images.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(f"images of {height}x{width} do not divide into patches of {patch}")
        return cls(height // patch, width // patch, patch)

    @overload
    def count(self, ratio: float) -> int: ...
    @overload
    def count(self, ratio: Tensor) -> Tensor: ...
    def count(self, ratio: float | Tensor) -> int | Tensor:
        """How many tokens to hide: N - int(N * (1 - ratio)), as MAE counts (it rounds down the tokens kept).

        This is the one place where a ratio becomes a count. References that round down the tokens hidden hide one
        fewer at many ratios.

        Args:
            ratio: Share of the tokens to hide, in [0, 1]; a tensor where it differs between images.

        Returns:
            An int for a float, an int64 tensor of the same shape for a tensor.
        """
        # 10 * (1 - 0.9) is 0.9999999999999998 and must keep 1: 1e-9 absorbs such rounding. float32 needs more.
        if isinstance(ratio, Tensor):
            rounding = self.size * torch.finfo(ratio.dtype).eps + 1e-9
            return self.size - (self.size * (1 - ratio.double()) + rounding).long()
        return self.size - int(self.size * (1 - ratio) + 1e-9)

    def pixels(self, tokens: Tensor) -> Tensor:
        """Spread one value a token over the pixels of its patch: (B, N) -> (B, 1, H, W)."""
        cells = tokens.view(-1, 1, self.rows, 1, self.cols, 1)
        spread = cells.expand(-1, 1, self.rows, self.patch, self.cols, self.patch)
        return spread.reshape(-1, 1, *self.image_size)

    def patchify(self, images: Tensor) -> Tensor:
        """Cut images into patches: (B, C, H, W) -> (B, N, patch * patch * C), values by row, column, channel."""
        batch, channels = images.shape[:2]
        cells = images.reshape(batch, channels, self.rows, self.patch, self.cols, self.patch)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, self.size, -1)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """The inverse of `patchify`: (B, N, patch * patch * C) -> (B, C, H, W)."""
        batch = tokens.shape[0]
        cells = tokens.reshape(batch, self.rows, self.cols, self.patch, self.patch, -1)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, *self.image_size)


def hide(scores: Tensor, count: int | Tensor) -> Tensor:
    """Hide the tokens with the largest scores of each row. With random scores, every subset is equally likely.

    Args:
        scores: (B, N), higher is hidden first.
        count: Tokens to hide in [0, N]: an int, or (B, 1) int64 where it differs between rows.

    Returns:
        (B, N) bool, True = hidden.
    """
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    if isinstance(count, int):
        return hidden.scatter_(1, scores.topk(count, dim=1, sorted=False).indices, True)
    order = scores.argsort(dim=1, descending=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    return hidden.scatter_(1, order, rank < count)


def membership(start: Tensor, extent: Tensor, cells: int) -> Tensor:
    """Which cells along one axis lie in a span: 1 where start <= cell < start + extent, else 0.

    With row memberships (M, rows) and column memberships (M, cols) of M rectangles, `rows[m, :, None] * cols[m]` is the
    m-th rectangle, and `rows.T @ cols` says how many rectangles cover each cell.

    Args:
        start: (...) whole numbers: the first cell of the span.
        extent: (...) whole numbers: how many cells the span has, 0 or more.
        cells: Cells along the axis.

    Returns:
        (..., cells) float32, 0 or 1.
    """
    # Without a comparison, which is slower. Cell k has its centre at k + 1/2, the span at start + extent / 2. In half
    # cells, the distance of the two centres is at most extent - 1 inside the span and at least extent + 1 outside. So
    # extent - distance is 1 or more inside, -1 or less outside, and clamping it to [0, 1] gives the membership.
    #   start 1, extent 2, 5 cells:  cells' centres 1 3 5 7 9, the span's 4
    #   distance         3  1  1  3  5
    #   extent - it     -1  1  1 -1 -3  -> 0 1 1 0 0
    # tests/core/test_grid.py::test_membership_is_start_up_to_end holds it to the plain comparison.
    cell_centre = torch.arange(1.0, 2 * cells, 2, device=start.device)
    span_centre = torch.add(extent, start, alpha=2)[..., None]
    distance = (cell_centre - span_centre).abs_()
    return torch.sub(extent[..., None], distance, out=distance).clamp_(0, 1)
