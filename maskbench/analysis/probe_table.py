"""Every probe, a row for each metric and a column for each encoder, where there is more than the comparison shows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.comparison import sort_key
from maskbench.analysis.metrics import METRICS, PRIMARY
from maskbench.analysis.results import Results, split_groups
from maskbench.analysis.sections import (
    MINUS,
    Column,
    Row,
    Section,
    estimate_to_json,
    make_column,
    round_estimate,
)
from maskbench.analysis.statistics import Estimate

IN_PERCENT = ("top1", "sd", "miou", "pixel-accuracy", "attention-iou")
NOT_A_PROBE = ("cost", "validation")  # first parts of metrics that no probe gave, or that chose settings
ByLabel = dict[str, Estimate]


@dataclass(kw_only=True)
class ProbeRow(Row):
    """One metric of a probe; its label is the metric's name with spaces.

    Attributes:
        estimates: Mean over seeds and its 95 % t interval, by the label of the encoder.
    """

    estimates: ByLabel

    @property
    def is_percent(self) -> bool:
        """Whether the metric is a share, shown in %."""
        return any(part in IN_PERCENT for part in self.label.split(" "))

    def to_json(self) -> dict[str, Any]:
        estimates = {label: estimate_to_json(estimate) for label, estimate in self.estimates.items()}
        return {**estimates, "label": self.label}


@dataclass(kw_only=True)
class ProbeSection(Section):
    """The probes of one group.

    Attributes:
        encoders: Number of complete runs by label, in the order of the columns.
    """

    rows: list[ProbeRow]
    about: str = "Probes"
    row_heading: str = "probe"
    encoders: dict[str, int]

    def details(self) -> dict[str, Any]:
        return {"of": self.row_heading, "encoders": self.encoders}

    def columns(self) -> list[Column]:
        return [make_column(label, self.rows, _format_of(label)) for label in self.encoders]

    @property
    def notes(self) -> list[str]:
        counts = ", ".join(f"{label} {count}" for label, count in self.encoders.items())
        return [
            f"Accuracies, overlaps and their standard deviations in %, the rest as it is; docs/probes.md says how each "
            f"is asked. Mean over seeds, ± half of the 95 % t interval. Seeds: {counts}."
        ]


def make_sections(results: Results) -> list[ProbeSection]:
    """A section for each group with a metric beyond those of k-NN and linear."""
    metrics = {record.run_id: record.metrics for record in results.records}
    sections = []
    for group, members in split_groups(results.frame) if results.records else ():
        complete = members[members["status"] == "complete"]
        estimates = _estimates(complete, metrics)
        if estimates.keys() - {*METRICS}:
            rows = [ProbeRow(label=name.replace("/", " "), estimates=estimates[name]) for name in estimates]
            sections.append(ProbeSection(group=group, rows=rows, encoders=_count_encoders(complete, estimates)))
    return sections


def _count_encoders(complete: pd.DataFrame, estimates: dict[str, ByLabel]) -> dict[str, int]:
    """Complete runs by label, in the order of the comparison."""
    deciding = estimates[next((name for name in PRIMARY if name in estimates), next(iter(estimates)))]
    means = {label: estimate.value for label, estimate in deciding.items()}
    order = sorted(complete["label"].unique(), key=lambda label: sort_key(label, means.get(label)))
    counts = complete["label"].value_counts()
    return {str(label): int(counts[label]) for label in order}


def _estimates(runs: pd.DataFrame, metrics: dict[str, dict[str, float]]) -> dict[str, ByLabel]:
    """By metric and label, in the order in which the records have them, poolings beside each other."""
    values: dict[str, dict[str, list[float]]] = {}
    for run_id, label in zip(runs["run_id"], runs["label"], strict=True):
        for name, value in metrics[run_id].items():
            if name.split("/")[0] not in NOT_A_PROBE:
                values.setdefault(name, {}).setdefault(str(label), []).append(value)
    without_pooling = list(dict.fromkeys(name.rpartition("/")[0] for name in values))
    ordered = sorted(values, key=lambda name: (without_pooling.index(name.rpartition("/")[0]), name))
    return {name: {label: _estimate(own) for label, own in values[name].items()} for name in ordered}


def _estimate(values: list[float]) -> Estimate:
    return round_estimate(statistics.mean_interval(values))


def _format_of(label: str) -> Callable[[ProbeRow], str | None]:
    def cell(row: ProbeRow) -> str | None:
        estimate = row.estimates.get(label)
        if estimate is None:
            return None
        scale, form = (100, "{:.1f}") if row.is_percent else (1, "{:.2f}")
        text = form.format(scale * estimate.value)
        if estimate.low is not None and estimate.high is not None:
            text += f" ± {form.format(scale * (estimate.high - estimate.low) / 2)}"
        return text.replace("-", MINUS)

    return cell
