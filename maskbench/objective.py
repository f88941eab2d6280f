"""What an objective is: parameters, and a trainable module that turns a view into a loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from maskbench.component import Component
from maskbench.grid import Grid
from maskbench.registry import Registry
from maskbench.view import View
from maskbench.vit import Encoder


class Outcome(NamedTuple):
    """loss: scalar to minimise. patch_loss: (B, N) error of each patch, detached, where the objective has one.
    prediction: (B, C, H, W) recovered image in the normalised target's units, where there is one."""

    loss: Tensor
    patch_loss: Tensor | None = None
    prediction: Tensor | None = None


class Head(nn.Module, ABC):
    """The trainable part of an objective: owns the encoder and whatever is trained with it and thrown away later."""

    encoder: Encoder

    @abstractmethod
    def forward(self, view: View, labels: Tensor) -> Outcome:
        """The loss on a complete view. labels (B,) int64 are for supervised objectives alone."""


@dataclass(frozen=True, kw_only=True)
class Objective(Component, ABC):
    """A pre-training objective. Fields are its parameters.

    control: a row that makes others readable, with no strategy. trains: False where the encoder stays as it is.
    """

    control: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    @abstractmethod
    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        """The module to train, its own weights initialised from torch's current generator."""


REGISTRY: Registry[Objective] = Registry("objective", "maskbench.objectives")
register = REGISTRY.register
