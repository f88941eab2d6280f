"""Synthetic batches for strategies under test, or for measuring what a strategy costs."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.view import View, complete
from maskbench.data.augment import source_margin
from maskbench.strategy import Strategy

SQUARE = Grid(8, 8, 4)
SIGNAL_WIDTH = 16  # values in a token of the signals `features` and `embeddings`


@dataclass(frozen=True)
class SyntheticBatch:
    """Images and signals of random numbers, in which no two scores are equal.

    Attributes:
        grid: The patches of the images.
        images: (B, C, H, W) standard normal.
        index: (B,) int64 numbers of the samples.
        rows: (B,) int64 places in the global batch.
        size: Images in the global batch.
        signals: What the strategy needs, by name.
        module: What the strategy's `build` returned.
    """

    grid: Grid
    images: Tensor
    index: Tensor
    rows: Tensor
    size: int
    signals: dict[str, Tensor]
    module: nn.Module | None

    def take(self, chosen: Tensor) -> "SyntheticBatch":
        """The rows `chosen` (int64), which keep their places in the global batch."""
        signals = {name: value[chosen] for name, value in self.signals.items()}
        return dataclasses.replace(
            self, images=self.images[chosen], index=self.index[chosen], rows=self.rows[chosen], signals=signals
        )

    def context(self, *, seed: int = 0, epoch: int = 0, step: int = 0, progress: float = 0.5) -> Context:
        """What the strategy receives besides the images."""
        return Context(
            self.grid, self.index, seed=seed, epoch=epoch, step=step, progress=progress,
            rows=self.rows, batch_size=self.size, module=self.module, signals=self.signals,
        )  # fmt: skip

    def view(self, strategy: Strategy, **settings: Any) -> View:
        """The strategy's view, checked and with targets and weights filled in; `settings` as for `context`."""
        with torch.no_grad():
            view = strategy(self.images, self.context(**settings))
            return complete(view, self.images, self.grid, strategy.name)


def make_batch(
    strategy: Strategy,
    size: int = 64,
    grid: Grid = SQUARE,
    channels: int = 3,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SyntheticBatch:
    """Make a batch for a strategy, with the signals that it needs. The same arguments give the same batch.

    Args:
        strategy: The strategy, whose `build` is called.
        size: Images.
        grid: Their patches.
        channels: Their channels.
        device: Where they are.
        dtype: The floating-point type of images and signals.
    """
    generator = torch.Generator().manual_seed(5)
    height, width = grid.image_size
    top, left = source_margin((height, width), strategy.source_scale)

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=generator).to(device, dtype)

    source = normal(channels, height + 2 * top, width + 2 * left)
    images = source[:, :, top : top + height, left : left + width].contiguous()
    signals = {
        "attention": normal(grid.size).softmax(1),
        "features": normal(grid.size, SIGNAL_WIDTH),
        "embeddings": normal(grid.size, SIGNAL_WIDTH),
        "patch_loss": normal(grid.size).square(),
        "parts": (normal(grid.size) * 2).round(),
        "source": source,
    }
    needed = strategy.needs | ({"source"} if strategy.source_scale > 1 else set())
    signals = {name: value for name, value in signals.items() if name in needed}
    index = torch.randperm(50_000, generator=generator)[:size].to(device)
    module = strategy.build(images, grid, SIGNAL_WIDTH)
    module = None if module is None else module.to(device)
    return SyntheticBatch(grid, images, index, torch.arange(size, device=device), size, signals, module)


def tensors_of(view: View) -> dict[str, Tensor]:
    """Every tensor of a complete view by name, one row an image."""
    fields = {name: getattr(view, name) for name in ("images", "hidden", "replaced", "thrown", "condition")}
    for number, term in enumerate(view.terms):
        weight = cast(Tensor, term.weight)
        fields[f"weight {number}"] = weight.expand(len(view.images), *weight.shape[1:])
        fields[f"target {number}"] = term.target
    return {name: value for name, value in fields.items() if value is not None}
