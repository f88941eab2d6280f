"""Cost of every strategy's view, one CPU thread, batch 256: 224 px in patches of 16 and 32 px in patches of 4."""

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import batch_for

GRIDS = {"224/16": Grid(14, 14, 16), "32/4": Grid(8, 8, 4)}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("regime", ["paper", "matched"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", REGISTRY.names())
def test_view(benchmark: BenchmarkFixture, name: str, grid: str, regime: str) -> None:
    strategy = REGISTRY.create(name)
    if regime == "matched":
        strategy = strategy.matched(0.75)
    batch = batch_for(strategy, 256, GRIDS[grid])
    benchmark.group = f"{grid}, {regime}, batch 256"
    benchmark(batch.view, strategy)
