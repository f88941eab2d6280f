"""A strategy outside of a run: one view of a batch, in anybody's training loop."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.rng import derive_seed
from maskbench.core.view import View, complete
from maskbench.strategy import Strategy
from maskbench.training.degrade_arguments import (
    ensure_module,
    ensure_signals_fit,
    find_strategy,
    make_grid,
    number_images,
    share,
    whole_number,
)
from maskbench.training.outside_compilation import outside_compilation


@outside_compilation
def degrade(
    name_or_strategy: str | Strategy,
    images: Tensor,
    *,
    patch_size: int,
    seed: int = 0,
    epoch: int = 0,
    index: Tensor | None = None,
    step: int = 0,
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
    """A strategy's view of `images`, in any training loop.

    The random draws of an image depend on (seed, epoch, its number) alone, so every epoch draws anew, and an image gets
    the same mask in any batch. Without `index` the images of a batch are numbered from 0: every batch of an epoch then
    gets the same masks. Inside `torch.compile` it runs uncompiled: call it before the compiled function to keep that in
    one piece (`fullgraph=True`).

    Args:
        name_or_strategy: A registered name, or a strategy.
        images: (B, C, H, W), normalised, on any device. Not changed.
        patch_size: Side of a patch in pixels; divides H and W.
        seed: Seed of all draws.
        epoch: Number of the epoch, from 0; other epochs give other draws.
        index: (B,) int64, the numbers of the images in the data set. Default: 0 to B - 1.
        step: Number of the training step, for draws that all images of a batch share.
        attention: (B, N) attention of a teacher's class token to each patch, for strategies that need it.
        features: (B, N, D) last tokens of a teacher.
        embeddings: (B, N, D) patch embeddings, with positions.
        patch_loss: (B, N) loss of each patch under a teacher.
        parts: (B, N) part maps of the data.
        source: (B, C, H', W') wider crop of which `images` are the centre, for strategies with `source_scale` > 1.
        progress: Share of the training done, in [0, 1], for strategies that change with it.
        module: What the strategy's `build` returned. None: it is built from `seed` and fitted to `images`.
        **parameters: The strategy's parameters.

    Returns:
        The view, with no target and no weight left None.

    Raises:
        UsageError: Unknown strategy or parameter; a signal is missing that the strategy needs (the message names it);
            or an argument has another type, shape or range than the above. It is a ValueError.
        ValueError: The strategy cannot serve this grid.
    """
    strategy = find_strategy(name_or_strategy).replace(**parameters)
    grid, index = make_grid(images, patch_size), number_images(images, index)
    seed, epoch, step = (whole_number(*each, 0) for each in (("seed", seed), ("epoch", epoch), ("step", step)))
    progress = share("progress", progress)
    possible = {
        "attention": attention,
        "features": features,
        "embeddings": embeddings,
        "patch_loss": patch_loss,
        "parts": parts,
        "source": source,
    }
    signals = {signal: value for signal, value in possible.items() if value is not None}
    ensure_signals_fit(strategy, images, grid, signals)
    ensure_module(module)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # bits and exact sums need float32
        if module is None:
            module = _build(strategy, images, grid, signals, seed)
        context = Context(
            grid, index, seed=seed, epoch=epoch, step=step, progress=progress, module=module, signals=signals
        )
        return complete(strategy(images, context), images, grid, strategy.name)


def _build(
    strategy: Strategy, images: Tensor, grid: Grid, signals: Mapping[str, Tensor], seed: int
) -> nn.Module | None:
    """What the strategy learns or fits, from a stream of its own; torch's generator stays as it is."""
    width = next((signals[name].shape[-1] for name in ("embeddings", "features") if name in signals), 0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "init", "strategy"))
        module = strategy.build(images, grid, width)
    return None if module is None else module.to(images.device)
