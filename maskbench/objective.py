"""What an objective is: parameters, the crops it learns from, and a trainable module that turns views into a loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from maskbench.core.component import Component
from maskbench.core.examples import Examples
from maskbench.core.grid import Grid
from maskbench.core.registry import Registry
from maskbench.core.step_output import Outcome
from maskbench.data.color_jitter import Colours
from maskbench.models.encoder import Encoder

__all__ = ["Examples", "Head", "LearnsFrom", "Objective", "Outcome", "Recipe", "register"]

LearnsFrom = Literal["tokens", "pixels", "crops"]


@dataclass(frozen=True)
class Recipe:
    """The crops of each image that an objective learns from.

    full: for each crop of the run's size, which the strategy degrades, its colours; None: as they are. local: how many
    crops are smaller by `local_size` on each side, of an area in `local_scale`; the strategy does not touch them.
    """

    full: tuple[Colours | None, ...] = (None,)
    local: int = 0
    local_size: float = 0.5
    local_scale: tuple[float, float] = (0.05, 0.25)
    local_colours: Colours | None = None


class Head(nn.Module, ABC):
    """The trainable part of an objective: owns the encoder and whatever is trained with it and thrown away later.

    recipe: the crops that it wants. offers: the teacher's signals that it has anyway; `attention` and `features` are
    then methods of the images.
    """

    encoder: Encoder
    recipe: Recipe = Recipe()
    offers: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def forward(self, given: Examples) -> Outcome:
        """The loss."""

    def prepare(self, clean: tuple[Tensor, ...], progress: float) -> None:
        """Called before the strategy, with the clean crops of the step and the share of the training done, in [0, 1].

        What changes with progress belongs in a buffer, filled here: a number that `forward` reads is compiled into it,
        and compiled again when it changes.
        """

    def after_step(self, progress: float) -> None:
        """Called after the optimizer's step; `progress` is the share of the training done, in (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Objective(Component, ABC):
    """A pre-training objective. Fields are its parameters.

    control: a row that makes others readable, with no strategy. trains: False where the encoder stays as it is.
    What decides which strategies fit (maskbench.objectives.compatibility): learns_from: the least that it needs,
    hidden tokens ("tokens"), those or degraded pixels ("pixels"), or several crops of an image, which may be
    clean ("crops"); paints: it predicts pixels, so it honours a view's terms and measures each patch's loss.
    couples: its loss compares the images of a batch with each other, so it is not the mean of the losses of parts.
    """

    control: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    learns_from: ClassVar[LearnsFrom] = "pixels"
    paints: ClassVar[bool] = True
    couples: ClassVar[bool] = False

    @property
    def told_level(self) -> bool:
        """Whether it must be told the noise level of each view."""
        return False

    @abstractmethod
    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        """The module to train, its own weights initialised from torch's current generator."""


REGISTRY: Registry[Objective] = Registry("objective", "maskbench.objectives")
register = REGISTRY.register
