"""Cost of every strategy's view, one CPU thread, batch 256: 224 px in patches of 16 and 32 px in patches of 4."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.threads import one_thread
from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import make_batch

GRIDS = {"224/16": Grid(14, 14, 16), "32/4": Grid(8, 8, 4)}


@pytest.mark.parametrize("regime", ["paper", "matched"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", REGISTRY.names())
def test_view(benchmark: BenchmarkFixture, name: str, grid: str, regime: str) -> None:
    strategy = REGISTRY.create(name)
    if regime == "matched":
        strategy = strategy.matched(0.75)
    batch = make_batch(strategy, 256, GRIDS[grid])
    benchmark.group = f"{grid}, {regime}, batch 256"
    with one_thread():
        benchmark(batch.view, strategy)
