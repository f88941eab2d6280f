"""The order in which training images are read."""

from collections.abc import Iterator

import torch
from torch import Tensor

from maskbench.config.settings import RunConfig
from maskbench.core.rng import sample_keys
from maskbench.training.microbatches import split_batch
from maskbench.training.schedules import steps_per_epoch


def epoch_order(seed: int, epoch: int, labels: Tensor) -> Tensor:
    """(N,) int64: the epoch's order of the training images, on the device of `labels`."""
    index = torch.arange(len(labels), device=labels.device)
    return sample_keys(index, seed, "order", epoch).argsort()


def remaining_indices(config: RunConfig, labels: Tensor, step: int) -> Iterator[Tensor]:
    """The numbers of each part's images, from `step` to the end of the schedule, as the loop will ask for them; on the
    CPU, where they are read, moved there an epoch at a time."""
    per_epoch, size = steps_per_epoch(config, len(labels)), config.train.batch_size
    for epoch in range(step // per_epoch, config.train.epochs):
        order = epoch_order(config.seed, epoch, labels)[: per_epoch * size].cpu().split(size)
        for index in order[max(0, step - epoch * per_epoch) :]:
            yield from (part.index for part in split_batch(index, config.train.accumulate))
