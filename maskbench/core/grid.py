"""Patches of an image: how many, how many to hide, and the way between patches and pixels."""

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """`rows` x `cols` square patches of `patch` pixels a side. Tokens are numbered row by row."""

    rows: int
    cols: int
    patch: int

    @property
    def size(self) -> int:
        """Number of tokens N."""
        return self.rows * self.cols

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rows * self.patch, self.cols * self.patch

    @classmethod
    def of(cls, images: Tensor, patch: int) -> "Grid":
        """The grid of images (..., H, W). ValueError where a side is no multiple of the patch."""
        height, width = images.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(f"images of {height}x{width} do not divide into patches of {patch}")
        return cls(height // patch, width // patch, patch)

    @overload
    def count(self, ratio: float) -> int: ...
    @overload
    def count(self, ratio: Tensor) -> Tensor: ...
    def count(self, ratio: float | Tensor) -> int | Tensor:
        """Tokens to hide for a ratio in [0, 1]: N - int(N * (1 - ratio)), as MAE counts (it truncates the kept count).

        The one place where a ratio becomes a count: references that truncate the hidden count hide one token fewer
        at many ratios. A float gives an int, a tensor an int64 tensor of its shape. The 1e-9 absorbs binary rounding:
        10 * (1 - 0.9) is 0.9999999999999998 and must keep 1; a float32 tensor is off by more.
        """
        if isinstance(ratio, Tensor):
            off = self.size * torch.finfo(ratio.dtype).eps + 1e-9
            return self.size - (self.size * (1 - ratio.double()) + off).long()
        return self.size - int(self.size * (1 - ratio) + 1e-9)

    def pixels(self, tokens: Tensor) -> Tensor:
        """(B, N) one value a token -> (B, 1, H, W) one value a pixel."""
        cells = tokens.view(-1, 1, self.rows, 1, self.cols, 1)
        spread = cells.expand(-1, 1, self.rows, self.patch, self.cols, self.patch)
        return spread.reshape(-1, 1, *self.image_size)

    def patchify(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, patch * patch * C), a token's values ordered by row, column, channel."""
        batch, channels = images.shape[:2]
        cells = images.reshape(batch, channels, self.rows, self.patch, self.cols, self.patch)
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, self.size, -1)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """(B, N, patch * patch * C) -> (B, C, H, W), the inverse of `patchify`."""
        batch = tokens.shape[0]
        cells = tokens.reshape(batch, self.rows, self.cols, self.patch, self.patch, -1)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, *self.image_size)


def hide(scores: Tensor, count: int | Tensor) -> Tensor:
    """(B, N) bool, True = hidden: the `count` largest scores of each row.

    count: an int, or (B, 1) int64 where it varies between rows. With random scores every subset is equally likely.
    """
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    if isinstance(count, int):
        return hidden.scatter_(1, scores.topk(count, dim=1, sorted=False).indices, True)
    order = scores.argsort(dim=1, descending=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    return hidden.scatter_(1, order, rank < count)


def membership(start: Tensor, extent: Tensor, cells: int) -> Tensor:
    """(..., cells) float: 1 where start <= cell < start + extent, for start and extent (...) along one axis.

    The outer product of a rectangle's row and column memberships is the rectangle; a matrix product of many counts
    how often each cell is covered.
    """
    # Twice the distance from a cell's centre to the span's is below the extent inside, above it outside, in whole steps
    # of 1 or more: clamped, the difference is the membership, without a comparison.
    middle = torch.arange(1.0, 2 * cells, 2, device=start.device)
    distance = (middle - torch.add(extent, start, alpha=2)[..., None]).abs_()
    return torch.sub(extent[..., None], distance, out=distance).clamp_(0, 1)
