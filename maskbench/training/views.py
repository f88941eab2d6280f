"""What a strategy gets for the crops of a step, and the views that it makes of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from maskbench.config.settings import RunConfig
from maskbench.core.context import Context
from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.core.view import View, complete
from maskbench.runtime.hardware import autocast
from maskbench.strategy import Strategy
from maskbench.training.crops import Crops
from maskbench.training.microbatches import MicroBatch
from maskbench.training.train_state import TrainState


def make_view(strategy: Strategy, crops: Crops, context: Context) -> View:
    """The strategy's view of these crops: complete, and without gradients unless the strategy learns."""
    with torch.set_grad_enabled(context.module is not None and torch.is_grad_enabled()):
        return complete(strategy(crops.images, context), crops.images, context.grid, strategy.name)


def make_context(
    config: RunConfig,
    strategy: Strategy,
    state: TrainState,
    crops: Crops,
    epoch: int,
    progress: float,
    micro_batch: MicroBatch | None = None,
) -> Context:
    """The strategy's context for these crops.

    micro_batch: which rows of the global batch they are; None: all of them.
    """
    index, rows, batch_size = crops.index, None, None
    if micro_batch is not None:
        start, batch_size = micro_batch.start, micro_batch.size
        rows = torch.arange(start, start + len(index), device=index.device)
    return Context(
        state.head.encoder.grid,
        index,
        seed=config.seed,
        epoch=epoch,
        step=state.step,
        progress=progress,
        rows=rows,
        batch_size=batch_size,
        module=state.module,
        signals=_signals(config, strategy, state, crops, epoch),
        crop=crops.number,
    )


def _signals(
    config: RunConfig, strategy: Strategy, state: TrainState, crops: Crops, epoch: int
) -> dict[str, Tensor | Callable[[], Tensor]]:
    """The signals that the strategy needs, computed when it reads them, so that their time is the strategy's."""
    teacher = state.teacher
    source = state.head if teacher is None else teacher  # some objectives have a teacher of their own
    compute: dict[str, Callable[[], Tensor]] = {
        "embeddings": lambda: state.head.encoder.embed_patches(crops.images),
        "attention": lambda: source.attention(crops.images),  # type: ignore[operator]
        "features": lambda: source.features(crops.images),  # type: ignore[operator]
    }
    if teacher is not None:
        rng = CounterRNG(sample_keys(crops.index, config.seed, "patch-loss", epoch))
        compute["patch_loss"] = lambda: teacher.patch_loss(crops.images, crops.labels, rng)

    def without_gradient(signal: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def signal_without_gradient() -> Tensor:
            with torch.no_grad(), autocast(config.system):
                return signal()

        return signal_without_gradient

    signals: dict[str, Tensor | Callable[[], Tensor]] = {
        name: without_gradient(signal) for name, signal in compute.items() if name in strategy.needs
    }
    if crops.source is not None:
        signals["source"] = crops.source
    return signals
