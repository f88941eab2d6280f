"""All that changes during a training, and how it starts."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.config.schema import RunConfig
from maskbench.models.ema_teacher import SIGNALS as TEACHER_SIGNALS
from maskbench.models.ema_teacher import Teacher
from maskbench.objective import Head
from maskbench.strategy import Strategy
from maskbench.training.schedules import weight_decay_groups


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
    log_sums: dict[str, Tensor] = field(default_factory=dict)  # likewise
    ratio_sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))  # n, sum, sum of squares

    @property
    def learns_to_mask(self) -> bool:
        """Whether the strategy has a network in training, whose own loss may compare images with each other."""
        return self.module is not None and any(each.requires_grad for each in self.module.parameters())

    def _parts(self) -> dict[str, Any]:
        named = {"head": self.head, "optimizer": self.optimizer, "module": self.module, "teacher": self.teacher}
        return {name: part for name, part in named.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        return {
            **state,
            **{name: getattr(self, name) for name in ("step", "curve", "loss_sum", "log_sums", "ratio_sums")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned under the same configuration."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.curve = state["step"], list(state["curve"])
        device = self.loss_sum.device
        self.loss_sum, self.ratio_sums = (state[name].clone().to(device) for name in ("loss_sum", "ratio_sums"))
        self.log_sums = {name: value.clone().to(device) for name, value in state["log_sums"].items()}


def new_state(config: RunConfig, head: Head, strategy: Strategy, module: nn.Module | None = None) -> State:
    """The state before the first step; `head` and `module` are on their device."""
    trained = nn.ModuleList([head] if module is None else [head, module])
    groups = weight_decay_groups(trained, config.train.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.train.betas, fused=True)
    teacher = None
    if (strategy.needs & TEACHER_SIGNALS) - head.offers:
        teacher = Teacher(followed(head, strategy), config.train.teacher_momentum)
    device = head.encoder.mask_token.device
    return State(
        head,
        optimizer,
        module,
        teacher,
        loss_sum=torch.zeros((), device=device),
        ratio_sums=torch.zeros(3, dtype=torch.float64, device=device),
    )


def followed(head: Head, strategy: Strategy) -> nn.Module:
    """What the strategy's teacher is the moving average of: the encoder, or all that it takes to measure a loss."""
    return head if "patch_loss" in strategy.needs else head.encoder
