"""A single training step as `pretrain` does it, without a stopwatch."""

import contextlib
from typing import Any, cast

import torch
from torch import Tensor

from maskbench.core.view import View
from maskbench.data.splits import Splits
from maskbench.runs.plan import Plan
from maskbench.training.loop import add_to_sums
from maskbench.training.microbatches import MicroBatch
from maskbench.training.step import Trainer
from maskbench.training.train_state import TrainState


class NullStopwatch:
    """A stopwatch that stops nothing."""

    def phase(self, name: str) -> Any:
        return contextlib.nullcontext()


def one_step(planned: Plan, splits: Splits, state: TrainState, index: Tensor, *, backward: bool) -> View:
    """The view in a step as `pretrain` does it, the loss unseen; without a backward pass all gradients are 0."""
    state.head.train()
    trainer = Trainer(planned.config, splits, planned.strategy, state, cast(Any, NullStopwatch()))
    inputs = [trainer.prepare_input(MicroBatch(index, 0, len(index)), 0, 0.5)]
    if backward:
        outputs = trainer.backpropagate(inputs)
    else:
        output = trainer.forward(inputs[0])
        outputs = [output._replace(loss=output.loss.detach())]
        for parameter in trainer.loss.parameters():
            parameter.grad = torch.zeros_like(parameter)
    trainer.update(0.5)
    if index.is_cuda:  # a CPU's loss is read always
        assert add_to_sums(state, inputs, outputs, read_loss=False) is None
    return inputs[0].examples.views[0]
