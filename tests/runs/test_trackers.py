"""Trackers get the numbers of metrics.csv, and none of them can stop a run."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.errors import UsageError
from maskbench.record import RunRecord, read_record
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import run
from maskbench.runs.trackers import Tracker, TrackingReporter, create_trackers
from tests.helpers.command_line import SMALL, maskbench


def stored(folder: Path) -> list[dict[str, float]]:
    """The rows of the run's metrics.csv."""
    (path,) = folder.glob("results/quick/runs/random-*/metrics.csv")
    return [
        {name: float(value) for name, value in row.items() if value}
        for row in csv.DictReader(path.read_text().splitlines())
    ]


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.integration)])
def tracked(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    jobs = ["--jobs", str(request.param)]
    done = maskbench("run", *SMALL, "--epochs", "2", "--probes", "knn", "--track", "tensorboard", *jobs, cwd=folder)
    assert done.code == 0, done.err
    return folder


def test_tensorboards_own_reader_finds_metrics_csv(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = tracked.glob("results/quick/runs/*/tensorboard")
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    from tensorboard.util import tensor_util

    rows = stored(tracked)
    for name in {name for row in rows for name in row} - {"step"}:
        read = {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(name)}
        expected = {int(row["step"]): row[name] for row in rows if name in row}
        kept = {step: read[step] for step in expected}
        if not name.startswith("cost/"):
            assert kept == pytest.approx(expected, rel=1e-6), name
    record = read_record(folder.parent / "record.json")
    (accuracy,) = [tensor_util.make_ndarray(one.tensor_proto) for one in events.Tensors("knn/top1/mean")]
    assert float(accuracy) == pytest.approx(record.metrics["knn/top1/mean"])


class Broken(Tracker):
    def open_run(self, planned: Any) -> Any:
        return object()

    def log(self, numbers: dict[str, float]) -> None:
        raise ConnectionError("no route")

    def close(self) -> None:
        raise AssertionError("it was left out before")


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ended: list[RunRecord | None] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def end(self, record: RunRecord | None) -> None:
        self.ended.append(record)


def test_a_tracker_that_fails_stops_no_run(tmp_path: Path) -> None:
    settings = {"data.limit": 100, "train.epochs": 2, "train.batch_size": 50, "train.warmup_epochs": 0}
    config = parse_config(merge(load_preset("quick"), {**settings, "probes": "knn", "output": str(tmp_path)}))
    told = Notes()
    record = run(config, reporter=TrackingReporter(told, [Broken()]))
    assert record.status == "complete" and told.ended == [record]
    assert told.notes == ["Broken stopped tracking: ConnectionError: no route"]


def test_what_is_unknown_or_missing_is_said_before_anything_runs(tmp_path: Path) -> None:
    done = maskbench("run", "--track", "tensorbord", cwd=tmp_path)
    assert done.code == 2 and "Did you mean tensorboard" in done.err and not (tmp_path / "results").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        with pytest.raises(UsageError, match=r"--track wandb needs a package: pip install 'maskbench\[track\]'"):
            create_trackers(["wandb"])


def alone(folder: Path, name: str, **environment: str) -> None:
    """A run in a process of its own: these packages start threads and servers."""
    import os

    command = [sys.executable, "-m", "maskbench", "run", *SMALL, "--epochs", "2", "--probes", "knn", "--track", name]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0 and "stopped tracking" not in done.stderr, done.stderr


def test_mlflow_holds_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    alone(tmp_path, "mlflow", MLFLOW_TRACKING_URI=(tmp_path / "mlruns").as_uri(), MLFLOW_ALLOW_FILE_STORE="true")
    (path,) = tmp_path.glob("mlruns/*/*/metrics/loss")
    logged = {int(line.split()[2]): float(line.split()[1]) for line in path.read_text().splitlines()}
    assert logged == pytest.approx({int(row["step"]): row["loss"] for row in stored(tmp_path)})
    assert list(tmp_path.glob("mlruns/*/*/metrics/knn/top1/mean"))


def test_wandb_holds_the_curve_offline(tmp_path: Path) -> None:
    """Its offline file is a log of messages in which every number stands as JSON."""
    pytest.importorskip("wandb")
    alone(tmp_path, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    (path,) = tmp_path.glob("results/quick/runs/*/wandb/offline-*/*.wandb")
    content = path.read_bytes()
    for row in stored(tmp_path):
        for name, value in row.items():
            if not name.startswith("cost/") and name != "step":
                assert name.encode() in content and json.dumps(value).removesuffix(".0").encode() in content, name
