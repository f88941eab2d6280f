"""What a run costs beside itself on Ray, on two CPUs of a machine that does nothing else."""

import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.record import read_record
from tests.suites import finished, suite
from tests.test_ray import own_token

pytest.importorskip("ray")


def test_a_run_costs_little_beside_itself(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Starting Ray, its workers and making the tables included: under 5 s a run."""
    arguments = suite(tmp_path, ["random", "gmml"], "0-3", "--epochs", "40", "--set", "data.limit=400")

    def campaign() -> tuple[int, str]:
        return finished(tmp_path, *arguments, "--on", "ray", "--jobs", "2", timeout=400, env=own_token(tmp_path))

    start = time.monotonic()
    code, said = benchmark.pedantic(campaign, rounds=1)
    assert code == 0, said
    spent = 2 * (time.monotonic() - start)
    records = [read_record(path) for path in tmp_path.glob("results/quick/runs/*/record.json")]
    accounted = sum(each.metrics["cost/wall_s"] for each in records)
    print(f"{(spent - accounted) / len(records):.2f} s a run")
    assert len(records) == 12 and (spent - accounted) / len(records) < 5.0, (spent, accounted)
