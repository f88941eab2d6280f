"""How long a user waits for `maskbench --help`, where nothing heavy may be imported."""

from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bounds import require_at_most
from tests.helpers.command_line import maskbench_process

AT_MOST_S = 0.5


def test_help(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The fastest of five calls, each a process of its own."""
    done = benchmark.pedantic(lambda: maskbench_process("--help", cwd=tmp_path), rounds=5)
    assert "run" in done.out
    require_at_most("seconds of maskbench --help", benchmark.stats.stats.min, AT_MOST_S)
