"""Regular patterns: one patch of every 2 x 2, or every other patch."""

from typing import Annotated, Self

import torch
from pydantic import Field

from maskbench.strategy import Context, Scope, Strategy, Tensor, View, dataclass, hide, refuse_ratio, register


@register("grid")
@dataclass(frozen=True, kw_only=True)
class GridMask(Strategy):
    """Shows the same patch of every 2 x 2: only four masks exist, and every masked patch has a seen neighbour.

    The grid-wise ablation of He et al., arXiv 2111.06377 (Table 1f), whose code is not published; which of the four
    patches is seen is drawn for each image (scope). Hides exactly 75 %.

    Attributes:
        scope: "image": each image draws the patch that is seen; "batch": one draw for all.
    """

    scope: Scope = "image"

    def matched(self, ratio: float) -> Self:
        return refuse_ratio(self, ratio, 0.75)

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        if grid.rows % 2 or grid.cols % 2:
            raise ValueError(f"grid: {grid.rows}x{grid.cols} patches do not divide into windows of 2x2")
        shown = context.integers(4, 1, scope=self.scope)
        return View(images, place_in_window(context, 2) != shown, length=grid.size // 4)


@register("checkerboard")
@dataclass(frozen=True, kw_only=True)
class Checkerboard(Strategy):
    """Hides every other cell of `unit` x `unit` patches, the black or the white ones.

    Nguyen and Park, "SymMIM", 2024, arXiv 2408.12772: cells of 16 px for the online encoder, 32 px for the momentum
    encoder, which maskbench's common setting does not have. Two complementary masks exist; which is drawn for each
    image. Hides exactly half of an even grid.

    Attributes:
        unit: Side of a cell in patches, 1 or more.
        scope: "image": each image draws the colour that is masked; "batch": one draw for all.
    """

    unit: Annotated[int, Field(ge=1)] = 1
    scope: Scope = "image"

    def matched(self, ratio: float) -> Self:
        return refuse_ratio(self, ratio, 0.5)

    def __call__(self, images: Tensor, context: Context) -> View:
        grid, unit = context.grid, self.unit
        if grid.rows % unit or grid.cols % unit:
            raise ValueError(f"checkerboard: {grid.rows}x{grid.cols} patches do not divide into cells of {unit}")
        token = torch.arange(grid.size, device=images.device)
        colour = (token // grid.cols // unit + token % grid.cols // unit) % 2
        even = (grid.rows // unit) * (grid.cols // unit) % 2 == 0
        hidden = colour == context.integers(2, 1, scope=self.scope)
        return View(images, hidden, length=grid.size // 2 if even else None)


@register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(Strategy):
    """Keeps one patch of every 2 x 2, drawn anew in each window, and makes some of those kept mask tokens.

    Li et al., "Uniform Masking: Enabling MAE Pre-training for Pyramid-based Vision Transformers with Locality", 2022,
    arXiv 2205.10063. As published, the positions come from a shuffled pool with equally many of each of the four
    (`pool`), so their counts vary less (variance 4.7 at 49 windows) than independent draws' ("independent", 9.2).
    Mask tokens (`secondary`) carry no loss. Hides 75 %, and 81.6 % with the mask tokens at 14 x 14; the matched
    regime drops the secondary masking. No deviation known.

    Attributes:
        secondary: Share, in [0, 1), of the patches kept that become mask tokens.
        pool: True: positions come from a shuffled pool, as published; False: independent draws.
    """

    secondary: Annotated[float, Field(ge=0, lt=1)] = 0.25
    pool: bool = True

    def matched(self, ratio: float) -> Self:
        return refuse_ratio(self.replace(secondary=0.0), ratio, 0.75)

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        if grid.rows % 2 or grid.cols % 2:
            raise ValueError(f"uniform: {grid.rows}x{grid.cols} patches do not divide into windows of 2x2")
        windows = grid.size // 4
        if self.pool:
            size = -(-grid.size // 2 // 4) * 4
            shuffled = context.uniform(size).argsort(1)
            shown = shuffled[:, :windows] % 4
        else:
            shown = context.integers(4, windows)
        rows, cols = grid.rows // 2, grid.cols // 2
        shown = shown.view(-1, rows, 1, cols, 1).expand(-1, rows, 2, cols, 2).reshape(-1, grid.size)
        seen = place_in_window(context, 2) == shown
        if self.secondary == 0:
            return View(images, ~seen, length=windows)
        count = windows - int(windows * (1 - self.secondary) + 1e-9)
        replaced = hide(seen + context.uniform(grid.size), count)
        return View(images, ~seen | replaced, replaced=replaced, length=windows)


def place_in_window(context: Context, unit: int) -> Tensor:
    """(1, N) int64: each token's place, row by row, in its window of `unit` x `unit`."""
    grid = context.grid
    token = torch.arange(grid.size, device=context.device)[None]
    return token // grid.cols % unit * unit + token % grid.cols % unit
