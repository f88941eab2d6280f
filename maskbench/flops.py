"""Floating-point operations of a training step, counted by torch, not timed."""

from torch.utils.flop_counter import FlopCounterMode

from maskbench.config import RunConfig
from maskbench.data.splits import Splits
from maskbench.pretrain import State, degraded, sample
from maskbench.strategy import Strategy
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
    with FlopCounterMode(display=False) as counter:
        batch = sample(config, strategy, splits, SAMPLE)
        view = degraded(config, strategy, state, batch, epoch=0, progress=0.5)
        state.head(view, batch.labels).loss.backward()
    for owner in owners:
        use_plain_attention(owner, plain)
    state.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batch.index) / 1e9
