"""Floating-point operations of a training step, counted by torch, not timed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskbench.config.settings import RunConfig
from maskbench.data.splits import Splits
from maskbench.models.encoder import use_plain_attention
from maskbench.runtime import collectives
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.optimizers import muon_gflops
from maskbench.training.step import Trainer
from maskbench.training.train_state import TrainState

SAMPLE = 32


def training_gflops_per_image(config: RunConfig, splits: Splits, strategy: Strategy, state: TrainState) -> float:
    """GFLOPs (a multiply-add is two) for one image: augmentation, teacher, forward and backward, and Muon if used.

    Counted on the first SAMPLE images with plain attention, so the figure does not depend on the machine. Leaves the
    state as it was, but for gradients, which are dropped.
    """
    index = torch.arange(min(SAMPLE, len(splits.train)), device=splits.train.labels.device)
    with collectives.single_process(), _counting(config, state) as counter:
        trainer = Trainer(config, splits, strategy, state, Stopwatch(index.device))
        _, output = trainer.forward_batch(index, epoch=0, progress=0.5)
        output.loss.backward()
    state.optimizer.zero_grad(set_to_none=True)
    of_optimizer = muon_gflops(state.optimizer) / config.train.batch_size
    return counter.get_total_flops() / len(index) / 1e9 + of_optimizer


@torch.no_grad()
def encoding_gflops_per_image(config: RunConfig, state: TrainState) -> float:
    """GFLOPs for the features of one image, as probes read them."""
    encoder = state.head.encoder
    image = torch.zeros(1, config.data.in_chans, *encoder.grid.image_size, device=encoder.mask_token.device)
    with _counting(config, state) as counter:
        encoder.pooled_features(image)
    return counter.get_total_flops() / 1e9


@contextmanager
def _counting(config: RunConfig, state: TrainState) -> Iterator[FlopCounterMode]:
    """Counts the operations of the block, with plain attention and in eval mode, which leaves running means alone."""
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
