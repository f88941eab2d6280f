"""Everything that a strategy imports: the base class, what it receives, what it returns, and how it is registered.

Example:
    A complete strategy::

        from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register

        @register("my-mask")
        @dataclass(frozen=True, kw_only=True)
        class MyMask(Strategy):
            ratio: Ratio = 0.75

            def __call__(self, images: Tensor, context: Context) -> View:
                count = context.grid.count(self.ratio)
                hidden = hide(context.uniform(context.grid.size), count)
                return View(images, hidden, length=context.grid.size - count)
"""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from maskbench.core.component import Component
from maskbench.core.context import Context, Scope
from maskbench.core.grid import Grid, hide, membership
from maskbench.core.registry import Registry
from maskbench.core.step_output import StepOutput, at_least_float32
from maskbench.core.view import Term, View
from maskbench.errors import UsageError

__all__ = [
    "Context",
    "Grid",
    "Outcome",
    "Positive",
    "Ratio",
    "RatioRange",
    "Scope",
    "Share",
    "StepOutput",
    "Strategy",
    "Tensor",
    "Term",
    "View",
    "at_least_float32",
    "dataclass",
    "hide",
    "membership",
    "refuse_ratio",
    "register",
    "scale_gradient",
]

Outcome = StepOutput
"""The former name of `StepOutput`, for existing plugins."""


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"Input should be in ascending order, is {list(pair)}")
    return pair


Ratio = Annotated[float, Field(gt=0, lt=1)]
"""Type of a parameter: a share in (0, 1), e.g. of the patches to hide."""

Share = Annotated[float, Field(ge=0, le=1)]
"""Type of a parameter: a share or probability in [0, 1]."""

Positive = Annotated[float, Field(gt=0)]
"""Type of a parameter: a number above 0."""

RatioRange = Annotated[tuple[Ratio, Ratio], AfterValidator(_ascending)]
"""Type of a parameter: two shares in (0, 1), the lower first, between which the strategy draws uniformly."""

S = TypeVar("S", bound="Strategy")


@dataclass(frozen=True, kw_only=True)
class Strategy(Component, ABC):
    """A way of hiding or degrading images. The fields of a subclass are its parameters.

    The docstring of a strategy says what it hides and why, names the paper, and states every deviation from the
    reference. The states of a token, seen, masked, mask token and dropped, are explained at `View`.

    Attributes:
        needs: Names of the signals that `__call__` and `loss` read from the context: `attention`, `features`,
            `embeddings`, `patch_loss`, `parts`, `source` (see `Context`). Default: none.
        source_scale: Above 1: `context.source` is a wider crop, with round(side * (source_scale - 1) / 2) pixels more
            on each side. Default 1: there is no wider crop.
        learns_from_patch_loss: True if `loss` reads `StepOutput.patch_loss`. Only objectives that predict pixels then
            take the strategy. Default False.
        experimental: True if an essential part of the reference lies outside of what a strategy can do. `maskbench
            list` says so. Default False.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    source_scale: ClassVar[float] = 1.0
    learns_from_patch_loss: ClassVar[bool] = False
    experimental: ClassVar[bool] = False

    @property
    def covers_all(self) -> bool:
        """Whether every patch is masked in some draws and seen in others.

        Default True, which `check_strategy` tests; override with False if the published rule leaves some patches out.
        """
        return True

    @abstractmethod
    def __call__(self, images: Tensor, context: Context) -> View:
        """Decide what the encoder sees of a batch, and what the model must recover.

        Called without gradients, unless `build` returns a module. Draw random numbers from `context` only.

        Args:
            images: (B, C, H, W) clean and normalised, on the device. Do not modify them in place.
            context: The grid, random draws, progress, the learned module, and the signals named in `needs`.

        Returns:
            The view of these images. Targets and weights may be None; the training loop fills them in.

        Raises:
            ValueError: The strategy cannot work on this grid; the message says which would do.
        """

    def matched(self, ratio: float) -> Self:
        """The same strategy for a controlled comparison: it hides exactly `ratio` of every image.

        The base class sets the parameters of these names, if there are any: `ratio`, `exact` to True, `masked` (the
        share of images that are degraded at all) to 1. A strategy that hides nothing comes back unchanged. Override it
        if your parameters have other names.

        Args:
            ratio: Share of the patches to hide, in (0, 1).

        Raises:
            UsageError: The strategy cannot hide this share.
        """
        changes = {"ratio": ratio, "exact": True, "masked": 1.0}
        known = {field.name for field in dataclasses.fields(self)}
        return self.replace(**{name: value for name, value in changes.items() if name in known})

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        """Make what the strategy learns, or fits to the data. `context.module` holds it afterwards.

        Its parameters join the optimizer, and its state joins the checkpoint. Called once, before training; its
        weights come from torch's current generator, which is seeded for it.

        Args:
            sample: (B, C, H, W) clean, normalised images.
            grid: Their patches.
            dim: Width of the encoder: values in a token.

        Returns:
            The module, or None (default) if the strategy has no state.
        """
        return None

    def loss(self, view: View, output: StepOutput, context: Context) -> Tensor | None:
        """What to add to the total loss, for strategies that learn.

        Args:
            view: What `__call__` returned, with every target and weight filled in.
            output: What the objective made of the view.
            context: The one that `__call__` received; `kept` holds what it left there, `module` what it learns.

        Returns:
            () tensor, of which the mean is taken if there are several crops, or None (default) for nothing.
        """
        return None


def refuse_ratio(strategy: S, ratio: float, only: float) -> S:
    """Check the ratio for a strategy that can hide only one, e.g. in `matched`.

    Args:
        strategy: The strategy.
        ratio: The share wanted.
        only: The share that it can hide.

    Returns:
        `strategy`, unchanged.

    Raises:
        UsageError: `ratio` is another one.
    """
    if abs(ratio - only) > 1e-9:
        raise UsageError(f"{strategy.name} hides exactly {only:.0%}, not {ratio:.0%}; leave it out or use that ratio")
    return strategy


REGISTRY: Registry[Strategy] = Registry("strategy", "maskbench.strategies")
"""All strategies by name."""

register = REGISTRY.register
"""Class decorator that gives a strategy its name: `@register("my-mask")`, above `@dataclass`."""


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Scale the gradient and leave the values as they are.

    Args:
        x: Any shape.
        factor: Of the gradient. -1 reverses it: what produced `x` then climbs the loss that the encoder descends.

    Returns:
        `x`, whose gradient is multiplied by `factor` on the way back.
    """
    return x * factor + (x * (1 - factor)).detach()
