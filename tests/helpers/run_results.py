"""What runs left in a results folder, without what depends on clock and machine, so that it can be compared."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from maskbench.record import RunRecord, read_record


def comparable_results(cwd: Path) -> dict[str, Any]:
    """By run: everything that must not depend on interruptions and faults, as text to compare."""
    found = {}
    for path in sorted(cwd.glob("results/quick/runs/*/record.json")):
        record = read_record(path).model_dump(exclude={"interruptions"})
        assert record["status"] == "complete", record["error"]
        del record["config"]["system"]["workers"], record["environment"]["workers"]  # as many as a run has cores
        record["metrics"] = without_costs(record["metrics"])
        record["curve"] = [without_costs(row) for row in record["curve"]]
        with_files = {name.name: digest(name) for name in path.parent.glob("*.npz")}
        encoder = load_file(path.parent / "encoder.safetensors")  # whose header is in no fixed order
        with_files["encoder"] = hashlib.sha256(
            b"".join(encoder[name].tobytes() for name in sorted(encoder))
        ).hexdigest()
        found[path.parent.name] = json.dumps({**record, **with_files}, sort_keys=True)
    return found


def without_costs(row: dict[str, float]) -> dict[str, float]:
    """The entries of `row` whose name does not start with cost/."""
    return {name: value for name, value in row.items() if not name.startswith("cost/")}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left_over_files(cwd: Path) -> list[str]:
    """Files that a finished set of runs should not leave."""
    return [
        str(path) for pattern in ("checkpoint*", "*.lock", ".*.partial") for path in cwd.glob(f"**/runs/*/{pattern}")
    ]


def comparable_record(record: RunRecord) -> dict[str, object]:
    """The part of a record that must not depend on whether the run was interrupted."""
    kept = record.model_dump(exclude={"interruptions", "metrics", "curve"})
    return {**kept, "curve": [without_costs(row) for row in record.curve], "metrics": without_costs(record.metrics)}


def read_only_record(folder: Path, strategy: str = "random") -> RunRecord:
    """The record of the only run of `strategy` in `folder`, apart from the untrained control."""
    records = map(read_record, folder.glob(f"results/quick/runs/{strategy}-*/record.json"))
    (record,) = (each for each in records if each.objective["name"] != "random-init")
    return record


def assert_nearly_equal(one: RunRecord, other: RunRecord) -> None:
    """Two records of the same run agree up to rounding, apart from what depends on clock and machine."""
    assert one.run_id == other.run_id and one.status == other.status == "complete"
    for ours, theirs in zip(one.curve, other.curve, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-3)
        assert ours["lr"] == theirs["lr"]
    for name, value in one.metrics.items():
        if not name.startswith("cost/"):
            assert value == pytest.approx(other.metrics[name], abs=0.005), name
    assert one.diagnostics["realised_ratio_mean"] == pytest.approx(other.diagnostics["realised_ratio_mean"])


def count_interruptions(folder: Path) -> dict[str, int]:
    """By run, how often it was resumed."""
    paths = folder.glob("results/quick/runs/*/record.json")
    return {path.parent.name: json.loads(path.read_text())["interruptions"] for path in paths}
