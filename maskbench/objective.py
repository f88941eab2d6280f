"""Everything that an objective imports: the base class, its trainable head, what it receives and what it returns.

Example:
    A complete objective, which predicts the mean colour of an image from the patches that are left::

        @register("mean-colour")
        @dataclass(frozen=True, kw_only=True)
        class MeanColour(Objective):
            scale: float = 1.0

            def build(self, encoder, grid, channels, classes, *, plain_attention):
                return MeanColourHead(self, encoder, channels)


        class MeanColourHead(Head):
            def __init__(self, config, encoder, channels):
                super().__init__()
                self.config, self.encoder = config, encoder
                self.predict = nn.Linear(encoder.width, channels)

            def forward(self, examples):
                view = examples.view
                encoded = self.encoder(view.images, view.present, view.replaced, view.length)
                colours = self.predict(self.encoder.pool(encoded)["mean"])
                error = (colours - examples.clean[0].mean((2, 3))).square().mean()
                return StepOutput(self.config.scale * error)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from maskbench.core.component import Component
from maskbench.core.examples import Examples
from maskbench.core.grid import Grid
from maskbench.core.registry import Registry
from maskbench.core.step_output import StepOutput
from maskbench.data.color_jitter import ColorJitter
from maskbench.models.encoder import Encoder

__all__ = ["Examples", "Head", "LearnsFrom", "Objective", "Outcome", "Recipe", "StepOutput", "register"]

Outcome = StepOutput
"""The former name of `StepOutput`, for existing plugins."""

LearnsFrom = Literal["tokens", "pixels", "crops"]
"""The least that an objective needs from a view; see `Objective.learns_from`."""


@dataclass(frozen=True)
class Recipe:
    """The crops of each image that an objective learns from.

    Attributes:
        full: One entry for each crop of the run's size, which the strategy degrades: the colour changes of that crop,
            or None for none. Default: one crop without colour changes.
        local: Number of smaller crops, which no strategy changes. Default 0.
        local_size: Side of a smaller crop as a share of the run's size, in (0, 1]. Default 0.5.
        local_scale: Smallest and largest area of a smaller crop, as shares of the image, in (0, 1]. Default 0.05 to
            0.25, as in DINO (arXiv 2104.14294).
        local_colours: The colour changes of the smaller crops. Default: none.
    """

    full: tuple[ColorJitter | None, ...] = (None,)
    local: int = 0
    local_size: float = 0.5
    local_scale: tuple[float, float] = (0.05, 0.25)
    local_colours: ColorJitter | None = None


class Head(nn.Module, ABC):
    """The module that is trained: the encoder, and all that is trained with it and thrown away later.

    Attributes:
        encoder: The encoder, as `Objective.build` received it. It alone is probed and exported.
        recipe: The crops that `forward` needs. Default: one crop of the run's size.
        provides_signals: Signals of a strategy's context that the head computes anyway. A strategy that needs no others
            then costs no EMA teacher of its own. Each is a method of that name: `attention(images) -> (B, N)`,
            `features(images) -> (B, N, D)`. Default: none.
    """

    encoder: Encoder
    recipe: Recipe = Recipe()
    provides_signals: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def forward(self, examples: Examples) -> StepOutput:
        """Compute the loss of a batch or micro-batch.

        Args:
            examples: The views, the crops that they were made of, and the labels.

        Returns:
            The loss, and what there is of patch losses, prediction and logs.
        """

    def prepare(self, clean: tuple[Tensor, ...], progress: float) -> None:
        """Get ready for a step; called before the strategy. Does nothing by default.

        Write whatever changes with progress into a buffer here: a Python number that `forward` reads is compiled into
        it, and compiled again whenever it changes.

        Args:
            clean: (B, C, H, W) each: the full-size crops, before the strategy.
            progress: Share of the training that is done, in [0, 1].
        """

    def after_step(self, progress: float) -> None:
        """Update what the optimizer does not, such as an EMA teacher; called after its step. Does nothing by default.

        Args:
            progress: Share of the training that is done, in (0, 1].
        """


@dataclass(frozen=True, kw_only=True)
class Objective(Component, ABC):
    """A pre-training objective. The fields of a subclass are its parameters.

    The docstring of an objective says what is learnt, names the paper, and states every deviation from the reference.
    Which strategies it takes follows from the attributes below; maskbench.objectives.compatibility has the rules.

    Attributes:
        control: True for a row that makes the others readable, such as an untrained encoder. It takes no strategy.
            Default False.
        trains: False if the encoder stays as it is. Default True.
        needs_labels: True if `Examples.labels` is read; a data set without labels is then refused. Default False.
        learns_from: The least that a view must offer. "tokens": masked tokens. "pixels": these, or degraded pixels.
            "crops": several crops of an image, which may be clean. Default "pixels".
        predicts_pixels: True if it honours the terms of a view and measures the loss of each patch. Default True.
        compares_images: True if the loss compares the images of a batch with each other. It is then not the mean of the
            losses of micro-batches, so `train.accumulate` is refused. Default False.
    """

    control: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    learns_from: ClassVar[LearnsFrom] = "pixels"
    predicts_pixels: ClassVar[bool] = True
    compares_images: ClassVar[bool] = False

    @property
    def takes_noise_level(self) -> bool:
        """Whether it reads `View.condition`, the noise level, which a strategy must then give. Default False."""
        return False

    @abstractmethod
    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        """Build the module to train. Its own weights are initialised from torch's current generator.

        Args:
            encoder: The encoder to train.
            grid: The patches of an image.
            channels: Of an image.
            classes: Of the data set; 0 where it has no labels.
            plain_attention: Whether further transformer blocks should use plain attention in place of the fused one.

        Returns:
            The head, on the CPU. The caller moves it to the device.

        Raises:
            UsageError: The objective cannot work with this encoder, grid or number of channels; the message says what
                to change.
        """


REGISTRY: Registry[Objective] = Registry("objective", "maskbench.objectives")
"""All objectives by name."""

register = REGISTRY.register
"""Class decorator that gives an objective its name: `@register("my-objective")`, above `@dataclass`."""
