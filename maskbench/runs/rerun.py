"""Repeating a stored run, and saying whether its numbers hold."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from maskbench.config.resolve import merge, parse_config
from maskbench.config.settings import RunConfig
from maskbench.data.splits import Splits
from maskbench.errors import Failure, UsageError
from maskbench.record import RunRecord, UnreadableRecord, locate_record, read_record
from maskbench.runs.artifacts import read_finished_record
from maskbench.runs.moved_data import find_moved_data
from maskbench.runs.plan import Plan, load_data, make_plan, probe_splits
from maskbench.runs.plugin_sources import changed_since
from maskbench.runs.reporter import Reporter
from maskbench.runs.resume import MOVED, list_differences
from maskbench.runs.run import run
from maskbench.strategy import REGISTRY

SAME = ("versions", "cpu", "gpu", "device", "threads", "precision", "attention", "compile")  # for the last digit
CONFIDENCE = 0.95


@dataclass(frozen=True)
class NumberCheck:
    """A number of a record and of its repetition. low, high: the range in which the repetition may lie."""

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
    """Whether a record could be repeated.

    Attributes:
        checks: Each number.
        differences: How machine or versions differ; where they do not, every number must be the same to the last digit.
    """

    checks: list[NumberCheck]
    differences: list[str]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)


def rerun(
    path: Path, changes: dict[str, Any], output: Path, reporter: Reporter, checkpoint_every: float | None
) -> Verdict:
    """Repeat a recorded run into `output` and compare its numbers.

    Args:
        path: The record, or the folder that holds it.
        changes: Settings by dotted path that say where the data lie here, or which device to use.
        output: Results folder of the repetition.
        reporter: Gets what happens.
        checkpoint_every: See `run`.

    Raises:
        UsageError: The record cannot be read or is not of a complete run, or the data are not the record's.
        Failure: The repetition does not complete.
    """
    record = _read_complete(path)
    ensure_plugin_loaded(record)
    found = find_moved_data(path, record.config["data"], changes)
    for setting, place in found.items():
        reporter.note(f"{setting} is {place}, as seen from a folder above the record")
    config = repeated_config(record, {**changes, **found, "output": str(output)})
    plan, splits = load_data(make_plan(config))
    _ensure_same_data(record, plan, splits)
    if changed := changed_since(record, plan):
        reporter.note(f"the code of {', '.join(changed)} has changed since the record was made")
    if plan.folder.resolve() == (path if path.is_dir() else path.parent).resolve():
        raise UsageError(f"{output} is where the record lies; choose another --output for its repetition")
    same = make_plan(repeated_config(record, {"output": str(output)})).run_id  # with the data's recorded path
    if same != record.run_id:
        reporter.note(f"the same settings make {same} now: what they mean has changed since")
    done_before = read_finished_record(plan.folder) is not None
    again = run(config, force=done_before, reporter=reporter, checkpoint_every=checkpoint_every)
    if again.status != "complete":
        raise Failure(f"the repetition {again.status}: {again.error}")
    return compare_numbers(record, again)


def _read_complete(path: Path) -> RunRecord:
    try:
        record = read_record(locate_record(path))
    except UnreadableRecord as error:
        raise UsageError(str(error)) from None
    if record.status != "complete":
        raise UsageError(f"{path} is of a run that {record.status}; there are no numbers to repeat")
    return record


def ensure_plugin_loaded(record: RunRecord) -> None:
    """UsageError that names the plugin of a strategy that is not registered here."""
    name, origin, plugin = record.strategy["name"], record.strategy.get("distribution", ""), record.strategy_plugin
    if name in REGISTRY.names() or origin.startswith("maskbench "):
        return
    if plugin is not None:
        raise UsageError(
            f"strategy {name} of the record comes from the plugin {origin}; "
            f"give it, e.g. --plugin {shlex.quote(plugin)}"
        )
    if origin:
        raise UsageError(f"strategy {name} of the record comes from the package {origin}; install it")


def _ensure_same_data(record: RunRecord, plan: Plan, splits: Splits) -> None:
    data, trained = plan.config.data, record.dataset
    for path, here, recorded in (
        (data.dataset, splits, trained),
        (data.probe_dataset, probe_splits(plan, splits), trained.get("probed") or trained),
    ):
        if here.fingerprint != recorded["fingerprint"]:
            raise UsageError(
                f"the data in {path} are not the record's: fingerprint {here.fingerprint}, recorded "
                f"{recorded['fingerprint']}; --dataset names others"
            )


def repeated_config(record: RunRecord, changes: dict[str, Any]) -> RunConfig:
    """The record's configuration with `changes` laid over it."""
    return parse_config(merge(record.config, changes))


def compare_numbers(record: RunRecord, again: RunRecord) -> Verdict:
    """Every number of `record` that no clock or machine is part of, against `again`'s.

    On the same kind of machine with the same versions it must be the same. Elsewhere accuracies must lie in the 95 %
    Wilson interval of the record's for the size of the test set, which leaves out what training anew adds; other
    numbers are not compared.
    """
    here, there = ({key: known.get(key) for key in SAME} for known in (again.environment, record.environment))
    differences = list_differences(here, there) + [warning for warning in record.warnings if warning.startswith(MOVED)]
    stored, repeated = numbers(record), numbers(again)
    checks = []
    for name, value in stored.items():
        low, high = value, value
        if differences:
            count = (record.dataset.get("probed") or record.dataset)["sizes"]["test"]
            if "/top1/" not in name or name.startswith("curve/") or not count:  # a curve's are of fewer images
                continue
            low, high = binomtest(round(value * count), count).proportion_ci(CONFIDENCE, "wilson")
        checks.append(NumberCheck(name, value, repeated.get(name, float("nan")), low, high))
    return Verdict(checks, differences)


def numbers(record: RunRecord) -> dict[str, float]:
    """The metrics and the last row of the curve, without costs."""
    last = {f"curve/{name}": value for name, value in (record.curve[-1] if record.curve else {}).items()}
    return {name: value for name, value in {**record.metrics, **last}.items() if "cost/" not in name}
