"""From the numbers of images to what the objective is shown: crops, the strategy's context, its views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from maskbench.config.schema import RunConfig
from maskbench.core.context import Context
from maskbench.core.rng import Draws, keys
from maskbench.core.view import View, complete
from maskbench.data.splits import Splits
from maskbench.objective import Examples
from maskbench.runtime.hardware import autocast
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.crops import Batch, full_crops, local_crops
from maskbench.training.microbatches import Part
from maskbench.training.train_state import State


@dataclass(frozen=True)
class Shown:
    """A part of a batch as the objective gets it, and what the strategy was given for each of its crops."""

    part: Part
    given: Examples
    contexts: Sequence[Context]


def shown_of(
    config: RunConfig,
    splits: Splits,
    strategy: Strategy,
    state: State,
    part: Part,
    epoch: int,
    progress: float,
    watch: Stopwatch,
) -> Shown:
    """From the numbers of a part's images to what the objective is shown: crops and views."""
    head, index = state.head, part.index
    with watch.phase("data"):
        taken = splits.train.bare().take(index)
    with watch.phase("augment"):
        batches = full_crops(config, strategy, splits, head.recipe, taken, index, epoch)
        local = local_crops(config, splits, head.recipe, taken, index, epoch)
        clean = tuple(batch.images for batch in batches)
    with watch.phase("teacher"), autocast(config.system):
        head.prepare(clean, progress)
    with watch.phase("mask"):
        contexts = [context_for(config, strategy, state, batch, epoch, progress, part) for batch in batches]
        views = tuple(map(partial(degraded, strategy), batches, contexts))
    return Shown(part, Examples(views, clean, taken.labels, local), contexts)


def degraded(strategy: Strategy, batch: Batch, context: Context) -> View:
    """What the strategy makes of a batch: complete, and without gradients unless it learns."""
    with torch.set_grad_enabled(context.module is not None and torch.is_grad_enabled()):
        return complete(strategy(batch.images, context), batch.images, context.grid, strategy.name)


def context_for(
    config: RunConfig,
    strategy: Strategy,
    state: State,
    batch: Batch,
    epoch: int,
    progress: float,
    part: Part | None = None,
) -> Context:
    """What the strategy is given. Signals are computed when it asks, so their time is the strategy's. part: which rows
    of the batch these are; all of them if it is not given."""
    encoder, teacher = state.head.encoder, state.teacher
    images, index = batch.images, batch.index
    signals: dict[str, Tensor | Callable[[], Tensor]] = {}
    draws = Draws(keys(index, config.seed, "patch-loss", epoch))

    def offer(name: str, signal: Callable[[Tensor], Tensor]) -> None:
        def compute() -> Tensor:
            with torch.no_grad(), autocast(config.system):
                return signal(images)

        if name in strategy.needs:
            signals[name] = compute

    offer("embeddings", encoder.patch_embeddings)
    knowing = state.head if teacher is None else teacher
    for name in strategy.needs & {"attention", "features"}:
        offer(name, getattr(knowing, name))
    if teacher is not None:
        offer("patch_loss", lambda images: teacher.patch_loss(images, batch.labels, draws))
    if batch.source is not None:
        signals["source"] = batch.source
    return Context(
        encoder.grid,
        index,
        seed=config.seed,
        epoch=epoch,
        step=state.step,
        progress=progress,
        rows=None if part is None else torch.arange(part.start, part.start + len(index), device=index.device),
        batch_size=None if part is None else part.size,
        module=state.module,
        signals=signals,
        crop=batch.crop,
    )
