"""Repeating a stored run, and saying whether its numbers hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from maskbench.config.schema import RunConfig, merge, parse
from maskbench.errors import Failure, UsageError
from maskbench.record import RunRecord, Unreadable, read_record
from maskbench.runs.artifacts import finished
from maskbench.runs.plan import asked_about, load_splits, plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.resume import MOVED, differing
from maskbench.runs.run import run

SAME = ("versions", "cpu", "gpu", "device", "threads", "precision", "attention", "compile")  # for the last digit
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Claim:
    """One number of a record and of its repetition. Low and high: what the repetition may be."""

    name: str
    stored: float
    repeated: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        return self.low <= self.repeated <= self.high


@dataclass(frozen=True)
class Verdict:
    """What became of a record when it was repeated. elsewhere: how the machine or the versions differ; where they do
    not, every number must be the same to the last digit."""

    claims: list[Claim]
    elsewhere: list[str]

    @property
    def holds(self) -> bool:
        return all(claim.holds for claim in self.claims)


def rerun(
    path: Path, changes: dict[str, Any], output: Path, reporter: Reporter, checkpoint_every: float | None
) -> Verdict:
    """Repeat the run whose record or folder is `path`, into `output`. changes: where its data or device are here.

    UsageError for a record that cannot be read or is not of a complete run, and for data that are not the record's.
    """
    try:
        record = read_record(path / "record.json" if path.is_dir() else path)
    except Unreadable as error:
        raise UsageError(str(error)) from None
    if record.status != "complete":
        raise UsageError(f"{path} is of a run that {record.status}; there are no numbers to repeat")
    config = repeated_config(record, {**changes, "output": str(output)})
    planned, splits = load_splits(plan(config))
    asked, probed = asked_about(planned, splits), record.dataset.get("probed") or record.dataset
    for path_of, found, recorded in (
        (config.data.dataset, splits, record.dataset),
        (config.data.probe_dataset, asked, probed),
    ):
        if found.fingerprint != recorded["fingerprint"]:
            raise UsageError(
                f"the data in {path_of} are not the record's: fingerprint {found.fingerprint}, recorded "
                f"{recorded['fingerprint']}; --dataset names others"
            )
    if planned.folder.resolve() == (path if path.is_dir() else path.parent).resolve():
        raise UsageError(f"{output} is where the record lies; choose another --output for its repetition")
    if planned.run_id != record.run_id:
        reporter.note(f"the same settings make {planned.run_id} now: what they mean has changed since")
    done_before = finished(planned.folder) is not None
    again = run(config, force=done_before, reporter=reporter, checkpoint_every=checkpoint_every)
    if again.status != "complete":
        raise Failure(f"the repetition {again.status}: {again.error}")
    return compare(record, again)


def repeated_config(record: RunRecord, changes: dict[str, Any]) -> RunConfig:
    """The record's configuration with `changes` laid over it."""
    return parse(merge(record.config, changes))


def compare(record: RunRecord, again: RunRecord) -> Verdict:
    """Every number of `record` that no clock or machine is part of, against `again`'s.

    On the same kind of machine with the same versions it must be the same. Elsewhere accuracies must lie in the 95 %
    Wilson interval of the record's for the size of the test set, which leaves out what training anew adds; other
    numbers are not compared.
    """
    here, there = ({key: known.get(key) for key in SAME} for known in (again.environment, record.environment))
    elsewhere = differing(here, there) + [warning for warning in record.warnings if warning.startswith(MOVED)]
    stored, repeated = numbers(record), numbers(again)
    claims = []
    for name, value in stored.items():
        low, high = value, value
        if elsewhere:
            if "/top1/" not in name or name.startswith("curve/"):  # a curve's are of fewer images
                continue
            count = (record.dataset.get("probed") or record.dataset)["sizes"]["test"]
            low, high = binomtest(round(value * count), count).proportion_ci(CONFIDENCE, "wilson")
        claims.append(Claim(name, value, repeated.get(name, float("nan")), low, high))
    return Verdict(claims, elsewhere)


def numbers(record: RunRecord) -> dict[str, float]:
    """Metrics, and the last row of the curve, without costs."""
    last = {f"curve/{name}": value for name, value in (record.curve[-1] if record.curve else {}).items()}
    return {name: value for name, value in {**record.metrics, **last}.items() if "cost/" not in name}
