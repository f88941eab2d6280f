"""THE loop: epochs of steps, and the learning curve. Everything random is keyed by (seed, stream, epoch, sample)."""

import math
from collections.abc import Callable, Sequence

import torch

from maskbench.core.step_output import StepOutput
from maskbench.core.view import hides_nothing, realised_ratio, shows_nothing
from maskbench.runtime import collectives
from maskbench.training.data_order import epoch_order
from maskbench.training.microbatches import mean_outputs
from maskbench.training.schedules import learning_rate
from maskbench.training.step import StepInput, Trainer
from maskbench.training.train_state import TrainState

WARMUP_STEPS = 5  # not timed: allocators fill, kernels are chosen
READ_LOSS_EVERY = 50  # steps between readings of the loss on a GPU, each of which waits for it


class Diverged(RuntimeError):
    """The loss is no longer a number."""


def pretrain(
    trainer: Trainer,
    *,
    online: Callable[[], dict[str, float]],
    on_step: Callable[[TrainState, float | None], None],
    on_epoch: Callable[[dict[str, float]], None],
) -> None:
    """Train to the end of the schedule, from wherever `trainer.state` stands.

    Args:
        trainer: What a step needs.
        online: Readings of a probe; they join the curve every `train.online_every` epochs and at the end.
        on_step: Called after each step, with the loss where it was read.
        on_epoch: Called with each row of the curve.

    Raises:
        Diverged: The loss is no longer a number.
    """
    state, watch, train = trainer.state, trainer.watch, trainer.config.train
    per_epoch, total = trainer.steps_per_epoch, trainer.total_steps
    first_timed = state.step + min(WARMUP_STEPS, (total - state.step) // 2)
    trainer.use_processes()
    state.head.train()
    if trainer.config.model.init is not None and not state.curve:
        state.curve.append({"epoch": 0, "step": 0, "images": 0, "cost/train_s": 0.0, **online()})
        state.head.train()
    done = sum(row["epoch"] > 0 for row in state.curve)  # an epoch is over when its row is on the curve
    for epoch in range(done, train.epochs):
        order = epoch_order(trainer.config.seed, epoch, trainer.splits.train.labels)
        watch.resume()
        for number in range(state.step - epoch * per_epoch, per_epoch):
            if state.step == first_timed:
                watch.restart()
            batch = order[number * train.batch_size : (number + 1) * train.batch_size]
            inputs, outputs = trainer.step(batch, epoch, state.step / total, (state.step + 1) / total)
            state.step += 1
            watch.steps += 1
            read_loss = number % READ_LOSS_EVERY == 0 or number == per_epoch - 1
            on_step(state, add_to_sums(state, inputs, outputs, read_loss=read_loss))
        watch.pause()
        row = _curve_row(trainer, epoch)
        if (epoch + 1) % train.online_every == 0 or epoch + 1 == train.epochs:
            row |= online()
        state.curve.append(row)
        on_epoch(row)
        state.loss_sum.zero_()
        state.log_sums.clear()


def _curve_row(trainer: Trainer, epoch: int) -> dict[str, float]:
    """What the epoch that has just ended adds to the curve."""
    state, per_epoch = trainer.state, trainer.steps_per_epoch
    return {
        "epoch": epoch + 1,
        "step": state.step,
        "images": state.step * trainer.config.train.batch_size,
        "loss": state.loss_sum.item() / per_epoch,
        **{name: value.item() / per_epoch for name, value in state.log_sums.items()},
        "lr": learning_rate(trainer.config, state.step - 1, per_epoch),
        "cost/train_s": trainer.watch.total_s,
    }


def add_to_sums(
    state: TrainState, inputs: Sequence[StepInput], outputs: Sequence[StepOutput], *, read_loss: bool
) -> float | None:
    """Add a step to the running sums of the epoch; the loss as a number where it is read, on CPU always."""
    grid = state.head.encoder.grid
    views = [each.examples.views[0] for each in inputs]
    ratio = torch.cat([realised_ratio(view, grid).double() for view in views])
    empty = torch.cat([hides_nothing(view, grid) for view in views]).sum()
    full = torch.cat([shows_nothing(view) for view in views]).sum()
    loss, logs = mean_outputs(outputs)
    state.loss_sum += loss
    for name, log in logs.items():
        state.log_sums[name] = log + state.log_sums[name] if name in state.log_sums else log
    sums = torch.stack([torch.ones_like(ratio).sum(), ratio.sum(), ratio.square().sum(), empty.double(), full.double()])
    sums = collectives.all_reduce_sum(sums)
    state.ratio_sums += sums[:3]
    state.useless_sums += sums[3:]
    if not read_loss and loss.device.type != "cpu":
        return None
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value} at step {state.step}; lower the learning rate or use --precision fp32")
    return value
