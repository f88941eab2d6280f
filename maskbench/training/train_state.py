"""All that changes during a training, and how it starts."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.config.settings import RunConfig
from maskbench.models.ema_teacher import SIGNALS as TEACHER_SIGNALS
from maskbench.models.ema_teacher import EMATeacher
from maskbench.objective import Head
from maskbench.strategy import Strategy
from maskbench.training.optimizers import Optimizer, build_optimizer


@dataclass
class TrainState:
    """Everything that changes during training, savable and restorable as one object between any two steps.

    Random streams, data order and schedules are functions of (seed, epoch, step), so the step number stands for them.

    Attributes:
        head: The objective's networks, the encoder among them.
        optimizer: Of all trained parameters.
        module: The strategy's network or fitted state.
        teacher: EMA teacher that the strategy looks through.
        step: Steps made.
        curve: A row per finished epoch.
        loss_sum: Over the steps of the epoch under way.
        log_sums: Likewise, of the objective's logs.
        ratio_sums: (3,) over all images so far: count, sum and sum of squares of the realised ratio.
        useless_sums: (2,) likewise, images whose mask hides nothing, and everything. NaN in runs that an older version
            began, which did not count them.
    """

    head: Head
    optimizer: Optimizer
    module: nn.Module | None = None
    teacher: EMATeacher | None = None
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    log_sums: dict[str, Tensor] = field(default_factory=dict)
    ratio_sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    useless_sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))

    @property
    def trains_strategy(self) -> bool:
        """Whether the strategy has a network in training, whose own loss may compare images with each other."""
        return self.module is not None and any(each.requires_grad for each in self.module.parameters())

    def _stateful(self) -> dict[str, Any]:
        named = {"head": self.head, "optimizer": self.optimizer, "module": self.module, "teacher": self.teacher}
        return {name: each for name, each in named.items() if each is not None}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        plain = ("step", "curve", "loss_sum", "log_sums", "ratio_sums", "useless_sums")
        return {
            **{name: each.state_dict() for name, each in self._stateful().items()},
            **{name: getattr(self, name) for name in plain},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned under the same configuration."""
        for name, each in self._stateful().items():
            each.load_state_dict(state[name])
        self.step, self.curve = state["step"], list(state["curve"])
        device = self.loss_sum.device
        self.loss_sum = state["loss_sum"].clone().to(device)
        self.ratio_sums = state["ratio_sums"].clone().to(device)
        self.useless_sums = state.get("useless_sums", torch.full_like(self.useless_sums, torch.nan)).clone().to(device)
        self.log_sums = {name: value.clone().to(device) for name, value in state["log_sums"].items()}


def initial_state(config: RunConfig, head: Head, strategy: Strategy, module: nn.Module | None = None) -> TrainState:
    """The state before the first step; `head` and `module` are on their device."""
    trained = nn.ModuleList([head] if module is None else [head, module])
    optimizer = build_optimizer(config.train, trained)
    teacher = None
    if (strategy.needs & TEACHER_SIGNALS) - head.provides_signals:
        teacher = EMATeacher(teacher_source(head, strategy), config.train.teacher_momentum)
    device = head.encoder.mask_token.device
    return TrainState(
        head,
        optimizer,
        module,
        teacher,
        loss_sum=torch.zeros((), device=device),
        ratio_sums=torch.zeros(3, dtype=torch.float64, device=device),
        useless_sums=torch.zeros(2, dtype=torch.float64, device=device),
    )


def teacher_source(head: Head, strategy: Strategy) -> nn.Module:
    """What the strategy's EMA teacher follows: the encoder, or all that it takes to measure the loss of patches."""
    return head if "patch_loss" in strategy.needs else head.encoder
