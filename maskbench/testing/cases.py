"""What the conformance checks try: each strategy in both regimes, on grids of several shapes."""

from collections.abc import Iterator

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.strategy import Strategy
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


def make_accepted_batch(strategy: Strategy, grid: Grid, size: int = 8, channels: int = 3) -> SyntheticBatch | None:
    """A batch on `grid`, or None if the strategy refuses this grid with a ValueError, as it may."""
    try:
        batch = make_batch(strategy, size, grid, channels)
        batch.view(strategy)
    except ValueError as error:
        message = str(error)
    else:
        return batch
    assert message.strip(), f"refuses {grid} with an empty message; say which grid would do"
    return None


def regimes_and_batches(strategy: Strategy) -> Iterator[tuple[Strategy, SyntheticBatch]]:
    """Each regime on each of the first four grids that the strategy accepts."""
    for regime in regimes(strategy):
        for grid in GRIDS[:4]:
            if (batch := make_accepted_batch(regime, grid)) is not None:
                yield regime, batch


def first_accepted_batch(strategy: Strategy, size: int = 64) -> SyntheticBatch:
    """A batch on the first of GRIDS that the strategy accepts."""
    batch = next(filter(None, (make_accepted_batch(strategy, grid, size) for grid in GRIDS)), None)
    assert batch is not None, "refuses all of the grids tried"
    return batch
