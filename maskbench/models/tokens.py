"""Encoded tokens, and moving between a full token grid and the subset of it that the encoder got."""

from typing import NamedTuple

import torch
from torch import Tensor


class EncodedTokens(NamedTuple):
    """Tokens after the encoder's last norm.

    Attributes:
        prefix: (B, P, D) class and register tokens.
        patches: (B, K, D) the patches that were encoded.
        patch_index: (B, K) int64: which of the grid's N tokens each patch is. None: all N, in order.
        valid: (B, K) bool, False on padding. None: there is no padding.
    """

    prefix: Tensor
    patches: Tensor
    patch_index: Tensor | None = None
    valid: Tensor | None = None


def scatter_to_grid(encoded: EncodedTokens, filler: Tensor, size: int) -> Tensor:
    """(B, size, D): the encoded patches at their places in the grid, `filler` (1, 1, D) everywhere else."""
    patches, index = encoded.patches, encoded.patch_index
    assert index is not None, "all tokens are there in order"
    if encoded.valid is not None:
        index = torch.where(encoded.valid, index, size)  # padding goes to an extra token, cut off below
    tokens = filler.to(patches.dtype).repeat(len(patches), size + 1, 1)
    return tokens.scatter(1, index[..., None].expand_as(patches), patches)[:, :size]


def true_indices(mask: Tensor, count: int) -> Tensor:
    """(B, count) int64: the column of each row's True entries in ascending order, 0 where a row has fewer.

    As `mask.nonzero()`, but of a fixed shape, so that the host does not wait for the device. Each True entry knows its
    rank from a running count; every column number is then written to its rank, and those of False to an extra slot.

        mask            [True, False, True, True]
        rank            [0,    3,     1,    2]        for count 3; the slot of False is 3
        true_indices    [0, 2, 3]

    Test: test_true_indices_against_a_plain_loop.
    """
    rank = torch.where(mask, mask.cumsum(1) - 1, count).clamp(max=count)
    column = torch.arange(mask.shape[1], device=mask.device).expand_as(rank)
    order = rank.new_zeros(len(mask), count + 1)
    return order.scatter_(1, rank, column)[:, :count]
