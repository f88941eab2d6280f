"""One table over several data sets: the interquartile mean of the runs, and how often they beat the baseline."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.metrics import BASELINE, PRIMARY, deciding_metric, heading
from maskbench.analysis.results import Results, is_control
from maskbench.analysis.sections import Column, Row, Section, estimate_to_json, make_column, round_estimate
from maskbench.analysis.statistics import Estimate

ByDataset = dict[str, list[float]]  # data set -> accuracies, one a run


@dataclass(kw_only=True)
class AcrossRow(Row):
    """A strategy or control that was run on all data sets.

    Attributes:
        n: Complete runs on all data sets together.
        iqm: Interquartile mean of their accuracies, in [0, 1].
        improvement: Probability that a run beats one of the baseline's on the same data set; None for the baseline, for
            controls, and without a baseline.
    """

    n: int
    iqm: Estimate
    improvement: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        fields = {"label": self.label, "n": self.n, "iqm": estimate_to_json(self.iqm)}
        return fields if self.improvement is None else {**fields, "improvement": estimate_to_json(self.improvement)}


@dataclass(kw_only=True)
class AcrossSection(Section):
    """Groups that differ in their data set alone.

    Attributes:
        baseline: The label that others are compared with.
        has_baseline: Whether it was run on all data sets.
        metric: The metric of the accuracies.
        n_datasets: Number of data sets.
    """

    rows: list[AcrossRow]
    about: str = "Across data"
    baseline: str
    has_baseline: bool
    metric: str
    n_datasets: int

    def details(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def columns(self) -> list[Column]:
        return [
            make_column("n", self.rows, lambda row: str(row.n)),
            make_column("interquartile mean", self.rows, lambda row: _format(row.iqm)),
            make_column(f"P(beats {self.baseline})", self.rows, _format_improvement),
        ]

    @property
    def notes(self) -> list[str]:
        notes = [
            f"The mean of the middle half of all runs over {self.n_datasets} data sets, {heading(self.metric)}, in %, "
            f"with a 95 % bootstrap interval that draws runs anew within each data set; none below three runs on each."
        ]
        if self.has_baseline:
            notes.append(
                f"P: the chance in % that a run beats one of {self.baseline}'s on the same data, averaged over data."
            )
        return notes


def make_sections(results: Results, baseline: str = BASELINE) -> list[AcrossSection]:
    """A section for each set of two and more groups that differ in data alone, with every strategy that was run on all
    of their data sets."""
    complete = split_data(results.frame)
    sections = [_make_section(rest, members, baseline) for rest, members in complete.groupby("rest", sort=True)]
    return [section for section in sections if section.rows]


def split_data(frame: pd.DataFrame) -> pd.DataFrame:
    """The complete runs, with their group in two: "data" and the "rest", the same where groups differ in data alone."""
    complete = frame[frame["status"] == "complete"]
    data, rest = ([group.split(" | ", 1)[part] for group in complete["group"]] for part in (0, 1))
    return complete.assign(data=data, rest=rest)


def _make_section(rest: Any, members: pd.DataFrame, baseline: str) -> AcrossSection:
    datasets = sorted(set(members["data"]))
    metric = deciding_metric(members) or PRIMARY[0]
    scores = _scores(members, metric) if metric in members and len(datasets) > 1 else {}
    scores = {label: by_data for label, by_data in scores.items() if len(by_data) == len(datasets)}
    rows = [_make_row(label, by_data, scores.get(baseline), baseline) for label, by_data in scores.items()]
    rows.sort(key=lambda row: (-row.iqm.value, row.label))
    return AcrossSection(
        group=f"{'; '.join(datasets)} | {rest}",
        rows=rows,
        baseline=baseline,
        has_baseline=baseline in scores,
        metric=metric,
        n_datasets=len(datasets),
    )


def _scores(members: pd.DataFrame, metric: str) -> dict[str, ByDataset]:
    scores: dict[str, ByDataset] = {}
    for (label, data), runs in members.dropna(subset=[metric]).groupby(["label", "data"]):
        scores.setdefault(str(label), {})[str(data)] = runs[metric].tolist()
    return scores


def _make_row(label: str, ours: ByDataset, theirs: ByDataset | None, baseline: str) -> AcrossRow:
    has_interval = _enough_runs(ours)
    row = AcrossRow(
        label=label,
        n=sum(map(len, ours.values())),
        iqm=_round(statistics.interquartile_mean([ours[data] for data in sorted(ours)]), has_interval),
    )
    if theirs is not None and label != baseline and not is_control(label):
        pairs = [[side[data] for data in sorted(ours)] for side in (ours, theirs)]
        estimate = statistics.probability_of_improvement(*pairs)
        row.improvement = _round(estimate, has_interval and _enough_runs(theirs))
    return row


def _enough_runs(by_data: ByDataset) -> bool:
    return min(map(len, by_data.values())) >= statistics.MIN_SEEDS


def _round(estimate: Estimate, has_interval: bool) -> Estimate:
    """Without an interval where a bootstrap has too few runs to draw from."""
    return round_estimate(estimate if has_interval else Estimate(estimate.value))


def _format_improvement(row: AcrossRow) -> str | None:
    return None if row.improvement is None else _format(row.improvement)


def _format(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
