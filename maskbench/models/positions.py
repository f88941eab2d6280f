"""Position tables of one grid, resized to another."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 0) -> Tensor:
    """Resize a position table bicubically, antialiased.

    timm's function of this kind leaves a table as it is where both grids have the same number of tokens and the new one
    is square, in versions before 1.0.17: 2 x 8 positions then stand for 4 x 4.

    Args:
        table: (1, prefix + rows * cols, D).
        old: Rows and columns of its grid.
        new: Rows and columns wanted.
        prefix: Positions of class and register tokens, which come first and are kept.

    Returns:
        (1, prefix + rows * cols, D) of the new grid, in the table's dtype; the table itself where nothing changes.
    """
    if old == new:
        return table
    cells = table[:, prefix:].float().unflatten(1, old).permute(0, 3, 1, 2)
    resized = F.interpolate(cells, size=new, mode="bicubic", antialias=True)
    return torch.cat([table[:, :prefix], resized.flatten(2).transpose(1, 2).to(table.dtype)], 1)
