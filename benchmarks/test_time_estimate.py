"""The time that `maskbench plan` predicts for a suite, against the time that the suite takes on this machine."""

import json
import statistics
import time
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bounds import require_at_least, require_at_most
from tests.helpers.command_line import maskbench

ROUNDS = 5
SUITE = """
preset: quick
set: {regime: matched, data.limit: 3000, train.epochs: 2, train.warmup_epochs: 1}
strategies: [gmml]
seeds: 0
controls: [random-init]
"""


def test_predicted_time(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Within 30 %: the median of five predictions, each divided by the time of the runs that follow it."""
    (tmp_path / "suite.yaml").write_text(SUITE)
    ratios: list[float] = []

    def predict_and_run() -> None:
        predicted = maskbench("plan", "--suite", "./suite.yaml", "--json", cwd=tmp_path)
        assert predicted.code == 0, predicted.err
        start, output = time.perf_counter(), f"run{len(ratios)}"
        done = maskbench("run", "--suite", "./suite.yaml", "--output", output, "--json", cwd=tmp_path)
        spent_s = time.perf_counter() - start
        assert done.code == 0, done.err
        runs_s = sum(record["metrics"]["cost/wall_s"] for record in json.loads(done.out))
        ratios.append(json.loads(predicted.out)["wall_s"] / runs_s)
        print(f"predicted / measured: {ratios[-1]:.2f}; {spent_s - runs_s:.1f} s outside the runs")

    benchmark.pedantic(predict_and_run, rounds=ROUNDS)
    benchmark.extra_info["predicted / measured"] = ratios
    require_at_least("predicted / measured time of a suite", statistics.median(ratios), 0.7)
    require_at_most("predicted / measured time of a suite", statistics.median(ratios), 1.3)
