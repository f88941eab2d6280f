"""How settings were chosen: every combination that was tried, and its accuracy on validation."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from maskbench.analysis import tuning
from maskbench.analysis.metrics import heading
from maskbench.analysis.results import Results, group_of
from maskbench.analysis.sections import Column, Row, Section, make_column, round_known
from maskbench.record import VALIDATION, RunRecord


@dataclass(kw_only=True)
class TuningRow(Row):
    """One combination of settings of one strategy.

    Attributes:
        settings: "name=value", separated by commas.
        n: Complete trials, one a seed.
        accuracy: Mean accuracy on validation over seeds, in [0, 1]; None where no trial is complete.
        seconds: Wall time of all its trials together.
    """

    settings: str
    n: int
    accuracy: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "settings": self.settings,
            "n": self.n,
            **self.unfinished,
            "validation": {"mean": self.accuracy},
            "cost/wall_s": {"mean": self.seconds},
            "best": self.is_best,
        }


@dataclass(kw_only=True)
class TuningSection(Section):
    """The trials of one group.

    Attributes:
        metric: The metric that chose the settings; None where no trial is complete.
        seeds: The seeds of the trials.
    """

    rows: list[TuningRow]
    about: str = "Tuning"
    metric: str | None
    seeds: list[int]

    def details(self) -> dict[str, Any]:
        return {"metric": self.metric}

    def columns(self) -> list[Column]:
        return [
            make_column("settings", self.rows, lambda row: row.settings, decides=True),
            make_column("n", self.rows, lambda row: str(row.n)),
            make_column("validation", self.rows, _format_accuracy, decides=True),
            make_column("s", self.rows, lambda row: f"{row.seconds:.0f}"),
        ]

    @property
    def notes(self) -> list[str]:
        if self.metric is None:
            return ["No trial was completed."]
        probe = heading(self.metric.removeprefix(VALIDATION))
        return [
            f"Top-1 accuracy in % of the {probe} probe on the validation part, mean over seeds "
            f"{', '.join(map(str, self.seeds))}; test was not looked at. The chosen combination is bold."
        ]


def make_sections(results: Results) -> list[TuningSection]:
    """A section for each group of trials."""
    groups: dict[str, list[RunRecord]] = {}
    for trial in results.trials:
        groups.setdefault(group_of(trial), []).append(trial)
    return [_make_section(group, trials) for group, trials in sorted(groups.items())]


def _make_section(group: str, trials: list[RunRecord]) -> TuningSection:
    metric = tuning.deciding_metric(trials)
    rows = []
    for name in sorted({trial.config["tuning"]["row"] for trial in trials}):
        best = tuning.best_settings(trials, name)
        for settings, runs in tuning.combinations(trials, name):
            rows.append(_make_row(name, settings, runs, metric))
            rows[-1].is_best = settings == best
    return TuningSection(group=group, rows=rows, metric=metric, seeds=sorted({trial.seed for trial in trials}))


def _make_row(name: str, settings: dict[str, Any], runs: list[RunRecord], metric: str | None) -> TuningRow:
    scores = [run.metrics[metric] for run in runs if metric is not None and metric in run.metrics]
    return TuningRow(
        label=name,
        settings=", ".join(f"{path.rpartition('.')[2]}={value}" for path, value in settings.items()),
        n=len(scores),
        unfinished={status: sum(run.status == status for run in runs) for status in ("failed", "diverged")},
        accuracy=round_known(float(np.mean(scores))) if scores else None,
        seconds=round_known(sum(run.metrics["cost/wall_s"] for run in runs)),
    )


def _format_accuracy(row: TuningRow) -> str | None:
    return None if row.accuracy is None else f"{100 * row.accuracy:.1f}"
