"""One training step: crops and views, forward, backward, update."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from maskbench.config.settings import RunConfig
from maskbench.core.context import Context
from maskbench.core.examples import Examples
from maskbench.core.rng import derive_seed
from maskbench.core.step_output import StepOutput
from maskbench.core.view import View
from maskbench.data.splits import Splits
from maskbench.errors import ContractError
from maskbench.objective import Head
from maskbench.runtime.hardware import autocast
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.crops import make_full_crops, make_local_crops
from maskbench.training.ddp import without_sync, wrap_ddp
from maskbench.training.microbatches import MicroBatch, share_term_weights, split_batch
from maskbench.training.schedules import half_cosine, learning_rate, steps_per_epoch
from maskbench.training.train_state import TrainState, teacher_source
from maskbench.training.views import make_context, make_view


@dataclass(frozen=True)
class StepInput:
    """A micro-batch as the objective gets it, and the context that the strategy had for each of its crops."""

    micro_batch: MicroBatch
    examples: Examples
    contexts: Sequence[Context]


class Loss(nn.Module):
    """From views to the loss: everything that gradients reach, so that DistributedDataParallel can wrap it."""

    def __init__(self, head: Head, strategy: Strategy, module: nn.Module | None) -> None:
        super().__init__()
        self.head, self.strategy, self.module = head, strategy, module

    def forward(self, examples: Examples, contexts: Sequence[Context]) -> StepOutput:
        output: StepOutput = self.head(examples)
        of_crops = zip(examples.views, output.each or [output] * len(examples.views), contexts, strict=True)
        extra = [loss for of_crop in of_crops if (loss := self.strategy.loss(*of_crop)) is not None]
        for owner, losses in (("the objective", [output.loss]), (f"strategy {self.strategy.name}", extra)):
            _ensure_scalars(owner, losses)
        loss = output.loss + torch.stack(extra).mean() if extra else output.loss
        return output._replace(loss=loss, each=())


def _ensure_scalars(owner: str, losses: Sequence[Tensor]) -> None:
    """A loss of another shape would train all the same, as its sum or mean, which its author did not choose."""
    for loss in losses:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        if shape != ():
            raise ContractError(f"the loss of {owner} is {shape}; return a () tensor, e.g. by .mean()")


class Trainer:
    """What a step needs, and the parts of a step.

    Attributes:
        config: The run's configuration.
        splits: Its images, on the device.
        strategy: What degrades the images.
        state: All that changes during training.
        watch: Times the phases data, augment, teacher, mask, forward, backward and optimizer.
        loss: From views to the loss, wrapped for several processes by `use_processes`.
    """

    def __init__(
        self, config: RunConfig, splits: Splits, strategy: Strategy, state: TrainState, watch: Stopwatch
    ) -> None:
        self.config, self.splits, self.strategy, self.state, self.watch = config, splits, strategy, state, watch
        self.loss: nn.Module = Loss(state.head, strategy, state.module)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.config, len(self.splits.train))

    @property
    def total_steps(self) -> int:
        return self.config.train.epochs * self.steps_per_epoch

    def use_processes(self) -> None:
        """Average gradients over all processes of the run."""
        self.loss = wrap_ddp(self.loss)

    def step(
        self, batch: Tensor, epoch: int, progress: float, next_progress: float
    ) -> tuple[list[StepInput], list[StepOutput]]:
        """One step on the images numbered `batch` (B,) int64, of which this process takes its share.

        progress, next_progress: share of the training that is done before and after the step, in [0, 1].
        """
        micro_batches = split_batch(batch, self.config.train.accumulate)
        inputs = [self.prepare_input(micro_batch, epoch, progress) for micro_batch in micro_batches]
        outputs = self.backpropagate(inputs)
        self.update(next_progress)
        return inputs, outputs

    def prepare_input(self, micro_batch: MicroBatch, epoch: int, progress: float) -> StepInput:
        """From the numbers of images to what the objective gets: crops and views."""
        config, splits, strategy, state, watch = self.config, self.splits, self.strategy, self.state, self.watch
        index, recipe = micro_batch.index, state.head.recipe
        with watch.phase("data"):
            images = splits.train.without_objects().take(index)
        with watch.phase("augment"):
            crops = make_full_crops(config, strategy, splits, recipe, images, index, epoch)
            local = make_local_crops(config, splits, recipe, images, index, epoch)
            clean = tuple(each.images for each in crops)
        with watch.phase("teacher"), autocast(config.system):
            state.head.prepare(clean, progress)
        with watch.phase("mask"):
            contexts = [make_context(config, strategy, state, each, epoch, progress, micro_batch) for each in crops]
            views = tuple(make_view(strategy, *each) for each in zip(crops, contexts, strict=True))
        return StepInput(micro_batch, Examples(views, clean, images.labels, local), contexts)

    def forward(self, step_input: StepInput) -> StepOutput:
        """The objective's loss, with the strategy's own added."""
        start = step_input.micro_batch.start
        with self.watch.phase("forward"), autocast(self.config.system):
            micro_batch = [start] * (start > 0)
            # For models that drop anything.
            torch.manual_seed(derive_seed(self.config.seed, "dropout", self.state.step, *micro_batch))
            output: StepOutput = self.loss(step_input.examples, step_input.contexts)
        return output

    def forward_batch(self, batch: Tensor, epoch: int, progress: float) -> tuple[View, StepOutput]:
        """The first crop's view and the output, with its graph, of a whole batch in this process alone."""
        step_input = self.prepare_input(MicroBatch(batch, 0, len(batch)), epoch, progress)
        return step_input.examples.views[0], self.forward(step_input)

    def backpropagate(self, inputs: Sequence[StepInput]) -> list[StepOutput]:
        """The outputs of the micro-batches, without their graphs. Gradients of the batch's loss replace older ones."""
        with self.watch.phase("backward"):
            self.state.optimizer.zero_grad(set_to_none=True)
        with self.watch.phase("mask"):
            examples = share_term_weights([each.examples for each in inputs])
        outputs = []
        for step_input, shared in zip(inputs, examples, strict=True):
            with nullcontext() if shared.last else without_sync(self.loss):
                output = self.forward(replace(step_input, examples=shared))
                with self.watch.phase("backward"):
                    output.loss.backward(torch.full_like(output.loss, 1 / len(inputs)))
            outputs.append(StepOutput(output.loss.detach(), logs=output.logs))
        return outputs

    def update(self, progress: float) -> None:
        """The optimizer's step, then what follows it: the objective and the EMA teacher. progress: after the step."""
        state = self.state
        with self.watch.phase("optimizer"):
            self._update_weights()
            state.head.after_step(progress)
        if state.teacher is not None:
            with self.watch.phase("mask"):
                state.teacher.update(teacher_source(state.head, self.strategy))

    def _update_weights(self) -> None:
        """At this step's learning rate and weight decay, the gradient clipped."""
        train, state = self.config.train, self.state
        if train.clip_grad is not None:
            parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, train.clip_grad)
        rate = learning_rate(self.config, state.step, self.steps_per_epoch)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        if train.weight_decay_end is not None:
            share = state.step / max(1, self.total_steps - 1)
            decay = half_cosine(train.weight_decay, train.weight_decay_end, share)
            for group in state.optimizer.param_groups[:-1]:  # the last one holds what does not decay
                group["weight_decay"] = decay
        state.optimizer.step()
