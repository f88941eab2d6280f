"""Made-up batches for strategies under test or under the clock."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.view import View, complete
from maskbench.data.augment import margin
from maskbench.strategy import Strategy

SQUARE = Grid(8, 8, 4)
WIDTH = 16  # of the signals


@dataclass(frozen=True)
class Batch:
    """Made-up images and signals for a strategy: normal noise, and scores that are nowhere equal."""

    grid: Grid
    images: Tensor
    index: Tensor
    rows: Tensor
    size: int
    signals: dict[str, Tensor]
    module: nn.Module | None

    def take(self, chosen: Tensor) -> "Batch":
        """Some rows, which keep their places in the global batch."""
        signals = {name: value[chosen] for name, value in self.signals.items()}
        return dataclasses.replace(
            self, images=self.images[chosen], index=self.index[chosen], rows=self.rows[chosen], signals=signals
        )

    def context(self, *, seed: int = 0, epoch: int = 0, step: int = 0, progress: float = 0.5) -> Context:
        """What the strategy gets beside the images."""
        return Context(
            self.grid, self.index, seed=seed, epoch=epoch, step=step, progress=progress,
            rows=self.rows, batch_size=self.size, module=self.module, signals=self.signals,
        )  # fmt: skip

    def view(self, strategy: Strategy, **given: Any) -> View:
        """The strategy's view, checked and completed; `given` as for `context`."""
        with torch.no_grad():
            view = strategy(self.images, self.context(**given))
            return complete(view, self.images, self.grid, strategy.name)


def batch_for(strategy: Strategy, size: int = 64, grid: Grid = SQUARE, channels: int = 3, device: str = "cpu") -> Batch:
    """`size` images for `strategy`, the same for the same arguments."""
    generator = torch.Generator().manual_seed(5)
    height, width = grid.image_size
    top, left = margin((height, width), strategy.source_scale)

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=generator).to(device)

    source = normal(channels, height + 2 * top, width + 2 * left)
    images = source[:, :, top : top + height, left : left + width].contiguous()
    signals = {
        "attention": normal(grid.size).softmax(1),
        "features": normal(grid.size, WIDTH),
        "embeddings": normal(grid.size, WIDTH),
        "patch_loss": normal(grid.size).square(),
        "parts": (normal(grid.size) * 2).round(),
        "source": source,
    }
    wanted = strategy.needs | ({"source"} if strategy.source_scale > 1 else set())
    signals = {name: value for name, value in signals.items() if name in wanted}
    index = torch.randperm(50_000, generator=generator)[:size].to(device)
    module = strategy.build(images, grid, WIDTH)
    module = None if module is None else module.to(device)
    return Batch(grid, images, index, torch.arange(size, device=device), size, signals, module)


def tensors(view: View) -> dict[str, Tensor]:
    """Every tensor of a complete view by name, one row an image."""
    found = {name: getattr(view, name) for name in ("images", "hidden", "replaced", "thrown", "condition")}
    for number, term in enumerate(view.terms):
        weight = cast(Tensor, term.weight)
        found[f"weight {number}"] = weight.expand(len(view.images), *weight.shape[1:])
        found[f"target {number}"] = term.target
    return {name: value for name, value in found.items() if value is not None}
