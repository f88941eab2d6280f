"""What the conformance checks try: each strategy in both regimes, on grids of several shapes."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from maskbench.core.grid import Grid
from maskbench.core.view import View
from maskbench.errors import ContractError, UsageError
from maskbench.strategy import Strategy
from maskbench.testing.mistakes import ensure
from maskbench.testing.synthetic_batch import SQUARE, SyntheticBatch, make_batch

WIDE = Grid(6, 10, 4)
GRIDS = (SQUARE, WIDE, Grid(7, 7, 8), Grid(14, 14, 2), Grid(1, 1, 8), Grid(1, 3, 8), Grid(2, 2, 8))
RATIO = 0.75  # of the matched regime here; strategies that can hide only one other share are checked in their own alone


def regimes(strategy: Strategy) -> list[Strategy]:
    """The strategy as it is, and in the matched regime if it can hide RATIO."""
    try:
        return [strategy, strategy.matched(RATIO)]
    except UsageError:
        return [strategy]


def make_accepted_view(
    strategy: Strategy, grid: Grid, size: int = 8, channels: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[SyntheticBatch, View] | None:
    """A batch on `grid` and its view, or None if the strategy refuses this grid with a ValueError, as it may."""
    try:
        batch = make_batch(strategy, size, grid, channels, dtype=dtype)
        return batch, batch.view(strategy)
    except ContractError:
        raise
    except ValueError as error:
        ensure(str(error).strip(), f"refuses {grid} with an empty message; say which grid would do")
    return None


def make_accepted_batch(strategy: Strategy, grid: Grid, size: int = 8, channels: int = 3) -> SyntheticBatch | None:
    """A batch on `grid`, or None if the strategy refuses this grid."""
    accepted = make_accepted_view(strategy, grid, size, channels)
    return None if accepted is None else accepted[0]


def refusal(strategy: Strategy, grid: Grid) -> str:
    """The message by which a strategy refuses a grid."""
    try:
        make_batch(strategy, 8, grid).view(strategy)
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def regimes_and_batches(strategy: Strategy) -> Iterator[tuple[Strategy, SyntheticBatch]]:
    """Each regime on each of the first four grids that the strategy accepts."""
    for regime in regimes(strategy):
        for grid in GRIDS[:4]:
            if (batch := make_accepted_batch(regime, grid)) is not None:
                yield regime, batch


def first_accepted_batch(strategy: Strategy, size: int = 64) -> SyntheticBatch:
    """A batch on the first of GRIDS that the strategy accepts."""
    batch = next(filter(None, (make_accepted_batch(strategy, grid, size) for grid in GRIDS)), None)
    ensure(batch is not None, "refuses all of the grids tried")
    assert batch is not None
    return batch


def generator_states() -> dict[str, Any]:
    """The states of the global generators of torch, numpy and Python, by whose they are."""
    numpy = np.random.get_state(legacy=False)["state"]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numpy["key"].tolist(), numpy["pos"]),
        "Python": random.getstate(),
    }
