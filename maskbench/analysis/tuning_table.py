"""How settings were chosen: every combination that was tried, and what validation said of it."""

from typing import Any

import numpy as np

from maskbench.analysis import tuning
from maskbench.analysis.comparison import heading, stable
from maskbench.analysis.results import Results, group_of
from maskbench.analysis.table_formats import Column, Section
from maskbench.record import VALIDATION, RunRecord


def sections(results: Results) -> list[Section]:
    """A section for each group of trials. A row, for each combination of settings: {"label", "settings", "n"
    (complete), "failed", "diverged", "validation": {"mean"}, "cost/wall_s": {"mean" (of all its runs together)},
    "best"}."""
    groups: dict[str, list[RunRecord]] = {}
    for trial in results.trials:
        groups.setdefault(group_of(trial), []).append(trial)
    return [_section(group, trials) for group, trials in sorted(groups.items())]


def _section(group: str, trials: list[RunRecord]) -> Section:
    metric = tuning.deciding(trials)
    rows = []
    for name in sorted({trial.config["tuning"]["row"] for trial in trials}):
        best = tuning.chosen(trials, name)
        for settings, runs in tuning.combinations(trials, name):
            rows.append(_row(name, settings, runs, metric) | {"best": settings == best})
    seeds = sorted({trial.seed for trial in trials})
    return {"group": group, "about": "Tuning", "metric": metric, "rows": rows, "notes": _notes(metric, seeds)}


def _row(name: str, settings: dict[str, Any], runs: list[RunRecord], metric: str | None) -> dict[str, Any]:
    scores = [run.metrics[metric] for run in runs if metric is not None and metric in run.metrics]
    return {
        "label": name,
        "settings": ", ".join(f"{path.rpartition('.')[2]}={value}" for path, value in settings.items()),
        "n": len(scores),
        **{status: sum(run.status == status for run in runs) for status in ("failed", "diverged")},
        "validation": {"mean": stable(float(np.mean(scores))) if scores else None},
        "cost/wall_s": {"mean": stable(sum(run.metrics["cost/wall_s"] for run in runs))},
    }


def columns_of(section: Section) -> list[Column]:
    """The combination, what validation said, and what it took."""

    def validation(row: dict[str, Any]) -> str | None:
        mean = row["validation"]["mean"]
        return None if mean is None else f"{100 * mean:.1f}"

    return [
        Column("settings", lambda row: row["settings"], decides=True),
        Column("n", lambda row: str(row["n"])),
        Column("validation", validation, decides=True),
        Column("s", lambda row: f"{row['cost/wall_s']['mean']:.0f}"),
    ]


def _notes(metric: str | None, seeds: list[int]) -> list[str]:
    if metric is None:
        return ["No trial was completed."]
    probe = heading(metric.removeprefix(VALIDATION))
    return [
        f"Top-1 accuracy in % of the {probe} probe on the validation part, mean over seeds "
        f"{', '.join(map(str, seeds))}; test was not looked at. The chosen combination is bold."
    ]
