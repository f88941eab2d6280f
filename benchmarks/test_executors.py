"""What a run costs beside itself where many are carried out, two at a time, on two CPUs of a machine that does nothing
else: starting Python, workers and Ray, and making the tables, included."""

import importlib.util
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bounds import require_at_most
from maskbench.record import read_record
from tests.helpers.cluster_suites import ray_token_environment, write_suite
from tests.helpers.command_line import run_command

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray here")


@pytest.mark.parametrize(("on", "at_most_s"), [("local", 3.0), pytest.param("ray", 5.0, marks=needs_ray)])
def test_a_run_costs_little_beside_itself(
    benchmark: BenchmarkFixture, tmp_path: Path, on: str, at_most_s: float
) -> None:
    arguments = write_suite(tmp_path, ["random", "gmml", "block"], "0-3", "--epochs", "40", "--set", "data.limit=400")

    def run_sweep() -> tuple[int, str]:
        return run_command(
            tmp_path, *arguments, "--on", on, "--jobs", "2", timeout=400, env=ray_token_environment(tmp_path)
        )

    start = time.monotonic()
    code, said = benchmark.pedantic(run_sweep, rounds=1)
    assert code == 0, said
    spent = 2 * (time.monotonic() - start)
    records = [read_record(path) for path in tmp_path.glob("results/quick/runs/*/record.json")]
    accounted = sum(each.metrics["cost/wall_s"] for each in records)
    print(f"\n{on}: {(spent - accounted) / len(records):.2f} s a run, of {len(records)} runs")
    assert len(records) == 16
    require_at_most(f"{on}: seconds a run beside itself", (spent - accounted) / len(records), at_most_s)
