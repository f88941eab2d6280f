"""How fast the built-in data set `shapes` is drawn on one core."""

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bounds import require_at_most
from benchmarks.threads import one_thread
from maskbench.data import shapes

AT_MOST_S = 10.0  # for all 10,000 training images


def test_shapes(benchmark: BenchmarkFixture) -> None:
    """A fifth of the training images, at 32 px."""
    with one_thread():
        benchmark.pedantic(lambda: shapes.generate("train", 2000, 32, 32, 3), rounds=3)
    require_at_most("seconds for 10,000 shapes", 5 * benchmark.stats.stats.min, AT_MOST_S)
