"""Resized position tables, against timm's latest function and against matrices of cubic weights."""

import numpy as np
import pytest
import torch
from timm.layers import resample_abs_pos_embed

from maskbench.models.positions import resize_positions


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2, as all libraries that antialias use it."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def weights(old: int, new: int) -> np.ndarray:
    """(new, old): the kernel around the middle of each new cell, as wide as the steps, each row's sum 1."""
    step = old / new
    middles = (np.arange(new)[:, None] + 0.5) * step
    kernel = cubic(np.abs(np.arange(old) + 0.5 - middles) / max(step, 1))
    return kernel / kernel.sum(1, keepdims=True)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("old", "new"), [((2, 8), (4, 4)), ((4, 4), (2, 8)), ((14, 14), (8, 8)), ((3, 5), (6, 4))])
def test_positions_go_to_their_places(old: tuple[int, int], new: tuple[int, int], prefix: int) -> None:
    """Also where both grids have as many tokens, which timm before 1.0.17 takes for the same grid if one is square."""
    table = torch.randn(1, prefix + old[0] * old[1], 3, generator=torch.Generator().manual_seed(1))
    found = resize_positions(table, old, new, prefix)
    cells = table[0, prefix:].double().numpy().reshape(*old, 3)
    exact = np.einsum("rh,cw,hwd->rcd", weights(old[0], new[0]), weights(old[1], new[1]), cells)
    assert torch.equal(found[:, :prefix], table[:, :prefix])
    assert np.abs(found[0, prefix:].numpy().reshape(*new, 3) - exact).max() < 1e-5
    if old[0] * old[1] != new[0] * new[1]:
        assert torch.equal(found, resample_abs_pos_embed(table, list(new), list(old), prefix))


def test_the_same_grid_changes_nothing() -> None:
    table = torch.randn(1, 17, 3)
    assert resize_positions(table, (4, 4), (4, 4), 1) is table
