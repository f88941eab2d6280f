"""Published invariants of strategies, each of which must hold, and must notice the breakages that it guards against.

An invariant is a function of a `Lab`. Under a breakage the lab hands out views that a wrong strategy would give:
"flip" (visible and hidden exchanged), "shift" (everything moved by one patch, or one pixel where only pixels are
degraded), "share" (one draw for all images). `tests/strategies/test_*.py` end with

    test_holds, test_notices = invariants_of(__name__)
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.view import Term, View, complete
from maskbench.strategy import REGISTRY, Strategy

TOKENS = Grid(14, 14, 1)  # 196 patches of one pixel: cheap where pixels do not matter

Invariant = Callable[["Lab"], None]


class Lab:
    """Views of a strategy, sound or broken."""

    def __init__(self, breakage: str = "") -> None:
        self.breakage = breakage

    def view(
        self,
        strategy: str | Strategy,
        images: int | Tensor = 4096,
        grid: Grid = TOKENS,
        *,
        seed: int = 0,
        epoch: int = 0,
        step: int = 0,
        progress: float = 0.0,
        signals: dict[str, Tensor] | None = None,
        **parameters: Any,
    ) -> View:
        """The complete view of `images` (B, C, H, W), or of that many blank ones of one channel."""
        if isinstance(strategy, str):
            strategy = REGISTRY.create(strategy)
        strategy = strategy.replace(**parameters)
        if isinstance(images, int):
            images = torch.zeros(images, 1, *grid.image_size)
        index = torch.arange(len(images))
        if self.breakage == "share":
            index = torch.zeros_like(index)
        module = strategy.build(images, grid, 16)
        context = Context(
            grid, index, seed=seed, epoch=epoch, step=step, progress=progress, module=module, signals=signals or {}
        )
        with torch.no_grad():
            view = complete(strategy(images, context), images, grid, strategy.name)
        return self._broken(view, grid)

    def hidden(
        self, strategy: str | Strategy, images: int | Tensor = 4096, grid: Grid = TOKENS, **given: Any
    ) -> Tensor:
        """(B, N) bool of the view."""
        hidden = self.view(strategy, images, grid, **given).hidden
        assert hidden is not None
        return hidden

    def _broken(self, view: View, grid: Grid) -> View:
        if self.breakage == "flip":
            return self._over(view, lambda mask: ~mask if mask.dtype == torch.bool else 1 - mask, lambda images: images)
        if self.breakage == "shift":

            def moved(mask: Tensor) -> Tensor:
                return mask.view(-1, grid.rows, grid.cols).roll(1, 2).flatten(1)

            pixels = 1 if view.hidden is None else grid.patch
            return self._over(view, moved, lambda images: images.roll(pixels, 3))
        return view

    @staticmethod
    def _over(view: View, on_mask: Callable[[Tensor], Tensor], on_images: Callable[[Tensor], Tensor]) -> View:
        def weighed(term: Term) -> Term:
            weight = term.weight
            assert weight is not None
            return replace(term, weight=on_mask(weight) if weight.ndim == 2 else on_images(weight))

        def part(name: str) -> Tensor | None:
            mask = getattr(view, name)
            return None if mask is None else on_mask(mask)

        masks = {name: part(name) for name in ("hidden", "replaced", "thrown")}
        return replace(view, images=on_images(view.images), terms=tuple(map(weighed, view.terms)), **masks)


def notices(*breakages: str) -> Callable[[Invariant], Invariant]:
    """Decorator: an invariant, and the breakages under which it must fail."""

    def decorate(invariant: Invariant) -> Invariant:
        invariant.breakages = breakages  # type: ignore[attr-defined]
        return invariant

    return decorate


def invariants_of(module: str) -> tuple[Callable[[Invariant], None], Callable[[Invariant, str], None]]:
    """pytest functions that run every invariant of a module, sound and broken."""
    found = [value for value in vars(sys.modules[module]).values() if hasattr(value, "breakages")]
    broken = [(invariant, breakage) for invariant in found for breakage in invariant.breakages]

    @pytest.mark.parametrize("invariant", found, ids=lambda invariant: invariant.__name__)
    def test_holds(invariant: Invariant) -> None:
        invariant(Lab())

    @pytest.mark.parametrize(
        ("invariant", "breakage"), broken, ids=[f"{invariant.__name__}-{breakage}" for invariant, breakage in broken]
    )
    def test_notices(invariant: Invariant, breakage: str) -> None:
        with pytest.raises(AssertionError):
            invariant(Lab(breakage))

    return test_holds, test_notices
