"""THE loop: batches, crops, views, steps. Everything random in it is keyed by (seed, stream, epoch, sample)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.config import RunConfig
from maskbench.context import Context
from maskbench.data.augment import margin, random_boxes, resample
from maskbench.data.splits import Images, Splits
from maskbench.draws import Draws, keys, seed_for
from maskbench.objective import Head
from maskbench.strategy import Strategy
from maskbench.system import autocast
from maskbench.teacher import SIGNALS as TEACHER_SIGNALS
from maskbench.teacher import Teacher
from maskbench.timing import Stopwatch
from maskbench.view import View, complete, realised_ratio

WARMUP_STEPS = 5  # not timed: allocators fill, kernels are chosen
CHECK_EVERY = 50  # steps between looks at the loss on a GPU, each of which waits for it


class Diverged(RuntimeError):
    """The loss is no longer a number."""


@dataclass
class State:
    """Everything that changes during training, savable and restorable as one object between any two steps.

    Streams, data order and schedule are functions of (seed, epoch, step), so the step number stands for them.
    """

    head: Head
    optimizer: torch.optim.Optimizer
    module: nn.Module | None = None
    teacher: Teacher | None = None
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))  # over the epoch under way
    ratio_sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))  # n, sum, sum of squares

    def _parts(self) -> dict[str, Any]:
        named = {"head": self.head, "optimizer": self.optimizer, "module": self.module, "teacher": self.teacher}
        return {name: part for name, part in named.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        return {**state, **{name: getattr(self, name) for name in ("step", "curve", "loss_sum", "ratio_sums")}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned under the same configuration."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.curve = state["step"], list(state["curve"])
        self.loss_sum, self.ratio_sums = state["loss_sum"].clone(), state["ratio_sums"].clone()


def new_state(config: RunConfig, head: Head, strategy: Strategy, module: nn.Module | None = None) -> State:
    """The state before the first step; `head` and `module` are on their device."""
    trained = nn.ModuleList([head] if module is None else [head, module])
    groups = weight_decay_groups(trained, config.train.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.train.betas, fused=True)
    teacher = None
    if strategy.needs & TEACHER_SIGNALS:
        teacher = Teacher(head, config.train.teacher_momentum, whole="patch_loss" in strategy.needs)
    device = head.encoder.mask_token.device
    return State(
        head,
        optimizer,
        module,
        teacher,
        loss_sum=torch.zeros((), device=device),
        ratio_sums=torch.zeros(3, dtype=torch.float64, device=device),
    )


def pretrain(
    config: RunConfig,
    splits: Splits,
    strategy: Strategy,
    state: State,
    watch: Stopwatch,
    *,
    online: Callable[[], dict[str, float]],
    on_step: Callable[[State, float | None], None],
) -> None:
    """Train `state` to the end of the schedule. Diverged where the loss stops being a number.

    splits: on the device. online: its readings join the curve every `train.online_every` epochs and at the end.
    on_step: called after each step, with the loss where it has been looked at.
    """
    train, images = config.train, splits.train
    per_epoch = steps_per_epoch(config, len(images))
    total = train.epochs * per_epoch
    first_timed = state.step + min(WARMUP_STEPS, (total - state.step) // 2)
    state.head.train()
    for epoch in range(len(state.curve), train.epochs):  # an epoch is over when its row is on the curve
        order = data_order(config.seed, epoch, images.labels)
        watch.resume()
        for place in range(state.step - epoch * per_epoch, per_epoch):
            if state.step == first_timed:
                watch.restart()
            with watch.phase("data"):
                index = order[place * train.batch_size : (place + 1) * train.batch_size]
                taken = images.take(index)
            with watch.phase("augment"):
                batch = crops(config, strategy, splits, taken, index, epoch)
            with watch.phase("mask"):
                view = degraded(config, strategy, state, batch, epoch, state.step / total)
            with watch.phase("forward"), autocast(config.system):
                torch.manual_seed(seed_for(config.seed, "dropout", state.step))  # for models that drop anything
                loss = state.head(view, batch.labels).loss
            with watch.phase("backward"):
                state.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            with watch.phase("optimizer"):
                for group in state.optimizer.param_groups:
                    group["lr"] = learning_rate(config, state.step, per_epoch)
                state.optimizer.step()
            if state.teacher is not None:
                with watch.phase("mask"):
                    state.teacher.update(state.head)
            state.step += 1
            watch.steps += 1
            seen = _tally(state, view, loss.detach(), look=place % CHECK_EVERY == 0 or place == per_epoch - 1)
            on_step(state, seen)
        watch.pause()
        row = {
            "epoch": epoch + 1,
            "step": state.step,
            "images": state.step * train.batch_size,
            "loss": state.loss_sum.item() / per_epoch,
            "lr": learning_rate(config, state.step - 1, per_epoch),
            "cost/train_s": watch.total_s,
        }
        if (epoch + 1) % train.online_every == 0 or epoch + 1 == train.epochs:
            row |= online()
        state.curve.append(row)
        state.loss_sum.zero_()


def _tally(state: State, view: View, loss: Tensor, look: bool) -> float | None:
    """Add a step to the running sums; the loss as a number where it is looked at, always on CPU."""
    ratio = realised_ratio(view, state.head.encoder.grid).double()
    state.loss_sum += loss
    state.ratio_sums += torch.stack([torch.ones_like(ratio).sum(), ratio.sum(), ratio.square().sum()])
    if not look and loss.device.type != "cpu":
        return None
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value} at step {state.step}; lower the learning rate or use --precision fp32")
    return value


def steps_per_epoch(config: RunConfig, images: int) -> int:
    """Whole batches in an epoch; the remainder of the epoch's order is left out."""
    return images // config.train.batch_size


def data_order(seed: int, epoch: int, labels: Tensor) -> Tensor:
    """(N,) int64: the epoch's order of the training images, on the device of `labels`."""
    index = torch.arange(len(labels), device=labels.device)
    return keys(index, seed, "order", epoch).argsort()


@dataclass(frozen=True)
class Batch:
    """Random crops: images (B, C, H, W), normalised; source, the wider ones of which they are the centre, if the
    strategy wants them; labels (B,); index (B,) int64, the sample numbers."""

    images: Tensor
    source: Tensor | None
    labels: Tensor
    index: Tensor


def crops(config: RunConfig, strategy: Strategy, splits: Splits, taken: Images, index: Tensor, epoch: int) -> Batch:
    """The epoch's crops of the images `taken`, whose numbers are `index`.

    The box drawn for a sample is the same for every strategy; where a wider crop is wanted, the box is the wider one.
    """
    size = config.data.img_size
    draws = Draws(keys(index, config.seed, "augment", epoch))
    boxes = random_boxes(draws, taken, size, config.data.crop_scale, flip=config.data.flip)
    if strategy.source_scale <= 1:
        return Batch(resample(taken, boxes, size, splits.mean, splits.std), None, taken.labels, index)
    top, left = margin(size, strategy.source_scale)
    source = resample(taken, boxes, (size[0] + 2 * top, size[1] + 2 * left), splits.mean, splits.std)
    images = source[:, :, top : top + size[0], left : left + size[1]].contiguous()
    return Batch(images, source, taken.labels, index)


def sample(config: RunConfig, strategy: Strategy, splits: Splits, count: int, epoch: int = 0) -> Batch:
    """The first `count` training images as `crops` gives them in `epoch`."""
    index = torch.arange(min(count, len(splits.train)), device=splits.train.labels.device)
    return crops(config, strategy, splits, splits.train.take(index), index, epoch)


def degraded(config: RunConfig, strategy: Strategy, state: State, batch: Batch, epoch: int, progress: float) -> View:
    """What the strategy makes of a batch. Signals are computed when it asks, so their time is the strategy's."""
    encoder, teacher = state.head.encoder, state.teacher
    images, index = batch.images, batch.index
    signals: dict[str, Tensor | Callable[[], Tensor]] = {}
    draws = Draws(keys(index, config.seed, "patch-loss", epoch))

    def offer(name: str, signal: Callable[[Tensor], Tensor]) -> None:
        def compute() -> Tensor:
            with torch.no_grad(), autocast(config.system):
                return signal(images)

        if name in strategy.needs:
            signals[name] = compute

    offer("embeddings", encoder.patch_embeddings)
    if teacher is not None:
        offer("attention", teacher.attention)
        offer("features", teacher.features)
        offer("patch_loss", lambda images: teacher.patch_loss(images, batch.labels, draws))
    if batch.source is not None:
        signals["source"] = batch.source
    context = Context(
        encoder.grid,
        index,
        seed=config.seed,
        epoch=epoch,
        step=state.step,
        progress=progress,
        module=state.module,
        signals=signals,
    )
    with torch.set_grad_enabled(state.module is not None and torch.is_grad_enabled()):
        return complete(strategy(images, context), images, encoder.grid, strategy.name)


def learning_rate(config: RunConfig, step: int, per_epoch: int) -> float:
    """Linear warm-up from 0, then a half cosine down to `min_lr` at the last step."""
    train = config.train
    warmup, total = round(train.warmup_epochs * per_epoch), train.epochs * per_epoch
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, total - 1 - warmup)
    return train.min_lr + (config.lr - train.min_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def weight_decay_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay; vectors (norms, biases), class, register and mask tokens and positions do not,
    as in MAE and timm."""
    exempt = ("cls_token", "reg_token", "mask_token", "pos_embed")
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim < 2 or name.endswith(exempt) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": decay}, {"params": kept, "weight_decay": 0.0}]
