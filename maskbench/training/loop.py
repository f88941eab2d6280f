"""THE loop: batches, crops, views, steps. Everything random in it is keyed by (seed, stream, epoch, sample)."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from maskbench.config.schema import RunConfig
from maskbench.core.context import Context
from maskbench.core.rng import seed_for
from maskbench.core.view import View, realised_ratio
from maskbench.data.splits import Splits
from maskbench.objective import Examples, Head, Outcome
from maskbench.runtime import distributed
from maskbench.runtime.hardware import autocast
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.data_order import data_order
from maskbench.training.data_parallel import parallel, unsynced
from maskbench.training.microbatches import Part, cut, joint, whole
from maskbench.training.schedules import half_cosine, learning_rate, steps_per_epoch
from maskbench.training.train_state import State, followed
from maskbench.training.views import Shown, shown_of

WARMUP_STEPS = 5  # not timed: allocators fill, kernels are chosen
CHECK_EVERY = 50  # steps between looks at the loss on a GPU, each of which waits for it


class Diverged(RuntimeError):
    """The loss is no longer a number."""


def pretrain(
    config: RunConfig,
    splits: Splits,
    strategy: Strategy,
    state: State,
    watch: Stopwatch,
    *,
    online: Callable[[], dict[str, float]],
    on_step: Callable[[State, float | None], None],
    on_epoch: Callable[[dict[str, float]], None],
) -> None:
    """Train `state` to the end of the schedule. Diverged where the loss stops being a number.

    splits: on the device. online: its readings join the curve every `train.online_every` epochs and at the end.
    on_step: called after each step, with the loss where it has been looked at. on_epoch: with each row of the curve.
    """
    train, images, head = config.train, splits.train, state.head
    learner = parallel(Learner(head, strategy, state.module))
    per_epoch = steps_per_epoch(config, len(images))
    total = train.epochs * per_epoch
    first_timed = state.step + min(WARMUP_STEPS, (total - state.step) // 2)
    head.train()
    for epoch in range(len(state.curve), train.epochs):  # an epoch is over when its row is on the curve
        order = data_order(config.seed, epoch, images.labels)
        watch.resume()
        for place in range(state.step - epoch * per_epoch, per_epoch):
            if state.step == first_timed:
                watch.restart()
            index = order[place * train.batch_size : (place + 1) * train.batch_size]
            shown = [
                shown_of(config, splits, strategy, state, part, epoch, state.step / total, watch)
                for part in cut(index, train.accumulate)
            ]
            outcomes = learn(config, state, learner, shown, watch)
            with watch.phase("optimizer"):
                update(config, state, per_epoch)
                head.after_step((state.step + 1) / total)
            if state.teacher is not None:
                with watch.phase("mask"):
                    state.teacher.update(followed(head, strategy))
            state.step += 1
            watch.steps += 1
            look = place % CHECK_EVERY == 0 or place == per_epoch - 1
            on_step(state, _tally(state, shown, outcomes, look=look))
        watch.pause()
        row = {
            "epoch": epoch + 1,
            "step": state.step,
            "images": state.step * train.batch_size,
            "loss": state.loss_sum.item() / per_epoch,
            **{name: value.item() / per_epoch for name, value in state.log_sums.items()},
            "lr": learning_rate(config, state.step - 1, per_epoch),
            "cost/train_s": watch.total_s,
        }
        if (epoch + 1) % train.online_every == 0 or epoch + 1 == train.epochs:
            row |= online()
        state.curve.append(row)
        on_epoch(row)
        state.loss_sum.zero_()
        state.log_sums.clear()


class Learner(nn.Module):
    """From views to the loss: everything that gradients reach, for DistributedDataParallel to look after."""

    def __init__(self, head: Head, strategy: Strategy, module: nn.Module | None) -> None:
        super().__init__()
        self.head, self.strategy, self.module = head, strategy, module

    def forward(self, given: Examples, contexts: Sequence[Context]) -> Outcome:
        outcome: Outcome = self.head(given)
        each = zip(given.views, outcome.each or [outcome] * len(given.views), contexts, strict=True)
        extra = [more for seen in each if (more := self.strategy.loss(*seen)) is not None]
        loss = outcome.loss + torch.stack(extra).mean() if extra else outcome.loss
        return outcome._replace(loss=loss, each=())


def outcome_of(
    config: RunConfig,
    splits: Splits,
    strategy: Strategy,
    state: State,
    index: Tensor,
    epoch: int,
    progress: float,
    watch: Stopwatch,
) -> tuple[View, Outcome]:
    """From the numbers of a batch's images to the loss: crops, views, objective; and the first crop's view."""
    shown = shown_of(config, splits, strategy, state, Part(index, 0, len(index)), epoch, progress, watch)
    return shown.given.views[0], outcome_from(config, state, Learner(state.head, strategy, state.module), shown, watch)


def learn(
    config: RunConfig, state: State, learner: nn.Module, shown: Sequence[Shown], watch: Stopwatch
) -> list[Outcome]:
    """The outcomes of the parts, without their graphs; gradients of the batch's loss replace older ones."""
    with watch.phase("backward"):
        state.optimizer.zero_grad(set_to_none=True)
    with watch.phase("mask"):
        given = whole([each.given for each in shown])
    outcomes = []
    for each, examples in zip(shown, given, strict=True):
        with nullcontext() if examples.last else unsynced(learner):
            outcome = outcome_from(config, state, learner, replace(each, given=examples), watch)
            with watch.phase("backward"):
                outcome.loss.backward(torch.full_like(outcome.loss, 1 / len(shown)))
        outcomes.append(Outcome(outcome.loss.detach(), logs=outcome.logs))
    return outcomes


def outcome_from(config: RunConfig, state: State, learner: nn.Module, shown: Shown, watch: Stopwatch) -> Outcome:
    """What the objective, and the strategy, make of what is shown."""
    place = [shown.part.start] * (shown.part.start > 0)
    with watch.phase("forward"), autocast(config.system):
        torch.manual_seed(seed_for(config.seed, "dropout", state.step, *place))  # for models that drop anything
        outcome: Outcome = learner(shown.given, shown.contexts)
    return outcome


def update(config: RunConfig, state: State, per_epoch: int) -> None:
    """The optimizer's step, at this step's learning rate and weight decay."""
    train = config.train
    if train.clip_grad is not None:
        trained = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, train.clip_grad)
    decayed, kept = state.optimizer.param_groups
    decayed["lr"] = kept["lr"] = learning_rate(config, state.step, per_epoch)
    if train.weight_decay_end is not None:
        share = state.step / max(1, train.epochs * per_epoch - 1)
        decayed["weight_decay"] = half_cosine(train.weight_decay, train.weight_decay_end, share)
    state.optimizer.step()


def _tally(state: State, shown: Sequence[Shown], outcomes: Sequence[Outcome], look: bool) -> float | None:
    """Add a step to the running sums; the loss as a number where it is looked at, always on CPU."""
    grid = state.head.encoder.grid
    ratio = torch.cat([realised_ratio(each.given.views[0], grid).double() for each in shown])
    loss, logs = joint(outcomes)
    state.loss_sum += loss
    for name, log in logs.items():
        state.log_sums[name] = log + state.log_sums[name] if name in state.log_sums else log
    sums = torch.stack([torch.ones_like(ratio).sum(), ratio.sum(), ratio.square().sum()])
    state.ratio_sums += distributed.total(sums)
    if not look and loss.device.type != "cpu":
        return None
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value} at step {state.step}; lower the learning rate or use --precision fp32")
    return value
