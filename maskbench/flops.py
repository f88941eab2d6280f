"""Floating-point operations of a training step, counted by torch, not timed."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskbench import distributed
from maskbench.config import RunConfig
from maskbench.data.splits import Splits
from maskbench.pretrain import State, outcome_of
from maskbench.strategy import Strategy
from maskbench.timing import Stopwatch
from maskbench.vit import use_plain_attention

SAMPLE = 32


def training_gflops_per_image(config: RunConfig, splits: Splits, strategy: Strategy, state: State) -> float:
    """GFLOPs (a multiply-add is two) for one image, forward and backward, augmentation and teacher included.

    Counted on the first SAMPLE images with plain attention, so the figure does not depend on the machine. Leaves the
    state as it was, but for gradients, which are dropped.
    """
    plain = config.system.attention == "plain"
    owners = [owner for owner in (state.head, state.teacher) if owner is not None]
    for owner in owners:
        use_plain_attention(owner, True)
    training = state.head.training
    state.head.eval()  # running means stay as they are
    index = torch.arange(min(SAMPLE, len(splits.train)), device=splits.train.labels.device)
    with distributed.alone(), FlopCounterMode(display=False) as counter:
        watch = Stopwatch(index.device)
        _, outcome = outcome_of(config, splits, strategy, state, index, epoch=0, progress=0.5, watch=watch)
        outcome.loss.backward()
    for owner in owners:
        use_plain_attention(owner, plain)
    state.head.train(training)
    state.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(index) / 1e9
