"""All that a strategy imports: the base class, what it is given, what it returns, and how it is registered.

from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register

@register("my-mask")
@dataclass(frozen=True, kw_only=True)
class MyMask(Strategy):
    ratio: Ratio = 0.75

    def __call__(self, images: Tensor, context: Context) -> View:
        count = context.grid.count(self.ratio)
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)
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
from maskbench.core.step_output import Outcome
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
    "Strategy",
    "Tensor",
    "Term",
    "View",
    "dataclass",
    "hide",
    "membership",
    "refuse_ratio",
    "register",
    "scale_gradient",
]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"Input should be in ascending order, is {list(pair)}")
    return pair


Ratio = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
RatioRange = Annotated[tuple[Ratio, Ratio], AfterValidator(_ascending)]  # drawn uniformly


S = TypeVar("S", bound="Strategy")


@dataclass(frozen=True, kw_only=True)
class Strategy(Component, ABC):
    """A way of hiding or degrading images. Fields are its parameters; the docstring says what is hidden and why,
    names the paper, and states every deviation from the reference.

    needs: the signals read from the context (maskbench.core.context.SIGNALS).
    source_scale: > 1 where a wider crop is needed; `context.source` then extends the images by
        round(side * (source_scale - 1) / 2) pixels on each side.
    learns_from_patch_loss: True where `loss` reads each patch's loss of the outcome, so that the objective must paint.
    experimental: True where an essential part of the reference lies outside of what a strategy can do.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    source_scale: ClassVar[float] = 1.0
    learns_from_patch_loss: ClassVar[bool] = False
    experimental: ClassVar[bool] = False

    @property
    def covers_all(self) -> bool:
        """Whether every patch is hidden, and seen, in some draw; False where the published rule leaves some out."""
        return True

    @abstractmethod
    def __call__(self, images: Tensor, context: Context) -> View:
        """The view of `images` (B, C, H, W), clean and normalised, which must not be modified in place.

        All randomness comes from `context`. ValueError where the grid cannot be served. Called without gradients
        unless `build` returns a module.
        """

    def matched(self, ratio: float) -> Self:
        """The same strategy for a controlled comparison: exactly `ratio` of every image hidden, no image left clean.

        The base class sets the parameters that go by these names: ratio, exact (True), masked (1). Strategies that
        hide nothing are returned unchanged; UsageError where a strategy cannot hide that share.
        """
        changes = {"ratio": ratio, "exact": True, "masked": 1.0}
        known = {field.name for field in dataclasses.fields(self)}
        return self.replace(**{name: value for name, value in changes.items() if name in known})

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        """Learned or fitted state, given a clean `sample` (B, C, H, W) and the encoder's width; `context.module` then
        holds it. Its parameters join the optimizer. None (the default): the strategy is stateless."""
        return None

    def loss(self, view: View, outcome: Outcome, context: Context) -> Tensor | None:
        """What is added to the total loss, where something is learnt: a scalar from this view, what the objective made
        of it, and `context.module`; of several crops' views, the mean. None (the default): nothing."""
        return None


def refuse_ratio(strategy: S, ratio: float, only: float) -> S:
    """`strategy` if `ratio` is the `only` one that it can hide, else a UsageError that says so."""
    if abs(ratio - only) > 1e-9:
        raise UsageError(f"{strategy.name} hides exactly {only:.0%}, not {ratio:.0%}; leave it out or use that ratio")
    return strategy


REGISTRY: Registry[Strategy] = Registry("strategy", "maskbench.strategies")
register = REGISTRY.register


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` forward, its gradient times `factor` backward; -1 makes an adversary."""
    return x * factor + (x * (1 - factor)).detach()
