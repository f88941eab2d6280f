"""A strategy outside of a run: one view of a batch, in anybody's training loop."""

from typing import Any

import torch
from torch import Tensor, nn

from maskbench.core.context import SIGNALS, Context
from maskbench.core.grid import Grid
from maskbench.core.rng import seed_for
from maskbench.core.view import View, complete
from maskbench.strategy import REGISTRY, Strategy


def degrade(
    name_or_strategy: str | Strategy,
    images: Tensor,
    *,
    patch_size: int,
    seed: int = 0,
    epoch: int = 0,
    attention: Tensor | None = None,
    features: Tensor | None = None,
    embeddings: Tensor | None = None,
    patch_loss: Tensor | None = None,
    parts: Tensor | None = None,
    source: Tensor | None = None,
    progress: float = 0.0,
    module: nn.Module | None = None,
    **parameters: Any,
) -> View:
    """What a strategy makes of `images` (B, C, H, W), normalised, on any device. No target or weight is left None.

    The draws of a row depend on (seed, epoch, row) alone. The signals are tensors as
    maskbench.core.context.SIGNALS says; a missing one
    that the strategy needs is a ValueError that names it. `parameters` are the strategy's. module: what
    the strategy's `build` returned; where it is None, it is built from `seed`, and fitted to `images`.
    """
    strategy = name_or_strategy
    if isinstance(strategy, str):
        strategy = REGISTRY.create(strategy, **parameters)
    elif parameters:
        strategy = strategy.replace(**parameters)
    given = {
        "attention": attention,
        "features": features,
        "embeddings": embeddings,
        "patch_loss": patch_loss,
        "parts": parts,
        "source": source,
    }
    signals = {signal: value for signal, value in given.items() if value is not None}
    wanted = strategy.needs | ({"source"} if strategy.source_scale > 1 else set())
    for signal in sorted(wanted - signals.keys()):
        raise ValueError(f"{strategy.name} needs {signal}=..., a tensor: {SIGNALS[signal]}")
    grid = Grid.of(images, patch_size)
    index = torch.arange(len(images), device=images.device)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # bits and exact sums need float32
        if module is None:
            width = next((signals[name].shape[-1] for name in ("embeddings", "features") if name in signals), 0)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed_for(seed, "init", "strategy"))
                module = strategy.build(images, grid, width)
            module = None if module is None else module.to(images.device)
        context = Context(
            grid, index, seed=seed, epoch=epoch, step=0, progress=progress, module=module, signals=signals
        )
        return complete(strategy(images, context), images, grid, strategy.name)
