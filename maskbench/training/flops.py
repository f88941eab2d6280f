"""Floating-point operations of a training step, counted by torch, not timed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskbench.config.schema import RunConfig
from maskbench.data.splits import Splits
from maskbench.models.encoder import use_plain_attention
from maskbench.runtime import distributed
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.loop import outcome_of
from maskbench.training.train_state import State

SAMPLE = 32


def training_gflops_per_image(config: RunConfig, splits: Splits, strategy: Strategy, state: State) -> float:
    """GFLOPs (a multiply-add is two) for one image, forward and backward, augmentation and teacher included.

    Counted on the first SAMPLE images with plain attention, so the figure does not depend on the machine. Leaves the
    state as it was, but for gradients, which are dropped.
    """
    index = torch.arange(min(SAMPLE, len(splits.train)), device=splits.train.labels.device)
    with distributed.alone(), _counting(config, state) as counter:
        watch = Stopwatch(index.device)
        _, outcome = outcome_of(config, splits, strategy, state, index, epoch=0, progress=0.5, watch=watch)
        outcome.loss.backward()
    state.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(index) / 1e9


@torch.no_grad()
def encoding_gflops_per_image(config: RunConfig, state: State) -> float:
    """GFLOPs for the features of one image, as probes read them."""
    encoder = state.head.encoder
    image = torch.zeros(1, config.data.in_chans, *encoder.grid.image_size, device=encoder.mask_token.device)
    with _counting(config, state) as counter:
        encoder.pooled(image)
    return counter.get_total_flops() / 1e9


@contextmanager
def _counting(config: RunConfig, state: State) -> Iterator[FlopCounterMode]:
    """Counts what is done meanwhile, with plain attention and running means at rest."""
    plain = config.system.attention == "plain"
    owners = [owner for owner in (state.head, state.teacher) if owner is not None]
    training = state.head.training
    for owner in owners:
        use_plain_attention(owner, True)
    state.head.eval()
    with FlopCounterMode(display=False) as counter:
        yield counter
    state.head.train(training)
    for owner in owners:
        use_plain_attention(owner, plain)
