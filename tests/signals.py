"""Images and made-up teacher signals for strategies under test."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskbench.context import Context
from maskbench.data.augment import margin
from maskbench.grid import Grid
from maskbench.strategy import Strategy
from maskbench.view import View, complete

WIDTH = 32


@dataclass(frozen=True)
class Batch:
    """A batch for a strategy: images, sample numbers, signals."""

    grid: Grid
    images: Tensor
    index: Tensor
    signals: dict[str, Tensor]

    def rows(self, chosen: Tensor) -> "Batch":
        """Some of its rows."""
        signals = {name: value[chosen] for name, value in self.signals.items()}
        return Batch(self.grid, self.images[chosen], self.index[chosen], signals)


def batch_for(strategy: Strategy, size: int = 64, grid: Grid = Grid(8, 8, 4), channels: int = 3) -> Batch:  # noqa: B008
    """`size` random images with random signals, the same for the same arguments."""
    generator = torch.Generator().manual_seed(5)
    height, width = grid.image_size
    top, left = margin((height, width), strategy.source_scale)
    source = torch.randn(size, channels, height + 2 * top, width + 2 * left, generator=generator)
    images = source[:, :, top : top + height, left : left + width].contiguous()
    signals = {
        "attention": torch.rand(size, grid.size, generator=generator).softmax(1),
        "features": torch.randn(size, grid.size, WIDTH, generator=generator),
        "embeddings": torch.randn(size, grid.size, WIDTH, generator=generator),
        "patch_loss": torch.rand(size, grid.size, generator=generator),
        "source": source,
    }
    return Batch(grid, images, torch.randperm(50_000, generator=generator)[:size], signals)


def view_of(strategy: Strategy, batch: Batch, *, seed: int = 0, epoch: int = 0, step: int = 0, **given: Any) -> View:
    """The strategy's complete view of the batch."""
    context = Context(batch.grid, batch.index, seed=seed, epoch=epoch, step=step, signals=batch.signals, **given)
    with torch.no_grad():
        return complete(strategy(batch.images, context), batch.images, batch.grid, strategy.name)


def tensors(view: View) -> dict[str, Tensor]:
    """Every tensor of a complete view by name, one row an image."""
    found = {name: getattr(view, name) for name in ("images", "hidden", "replaced", "thrown", "condition")}
    for number, term in enumerate(view.terms):
        assert term.weight is not None
        weight = term.weight
        found[f"weight {number}"] = weight.expand(len(view.images), *weight.shape[1:])
        found[f"target {number}"] = term.target
    return {name: value for name, value in found.items() if value is not None}
