"""Which of the settings that were tried is best for each row of a suite: by validation alone, never by test."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskbench.analysis.metrics import PRIMARY, first_measured
from maskbench.record import VALIDATION, RunRecord


def deciding_metric(trials: Sequence[RunRecord]) -> str | None:
    """The metric by which trials are compared, on validation: the primary one that all state, if it was measured, else
    the first of PRIMARY that one of them has."""
    stated = {trial.config.get("primary", PRIMARY[0]) for trial in trials}
    found = first_measured(
        [*stated] if len(stated) == 1 else [],
        lambda name: any(VALIDATION + name in trial.metrics for trial in trials),
    )
    return None if found is None else VALIDATION + found


def best_settings(trials: Sequence[RunRecord], row: str) -> dict[str, Any] | None:
    """The best combination of settings of one row: the highest mean over seeds, ties to the smaller values.

    None where no combination is complete with every seed that was tried: settings that diverge with one seed are not
    chosen for being good with another.
    """
    metric = deciding_metric(trials)
    highest, best = -np.inf, None
    tried = combinations(trials, row)
    seeds = {run.seed for _, runs in tried for run in runs}
    for settings, runs in tried:
        scores = [run.metrics[metric] for run in runs if metric in run.metrics]
        if metric is not None and len(scores) == len(seeds) and float(np.mean(scores)) > highest:
            highest, best = float(np.mean(scores)), settings
    return best


def combinations(trials: Sequence[RunRecord], row: str) -> list[tuple[dict[str, Any], list[RunRecord]]]:
    """The row's combinations and their runs, by seed; combinations in the order of their values."""
    by_settings: dict[str, tuple[dict[str, Any], list[RunRecord]]] = {}
    for run in sorted(trials, key=lambda run: (_sort_key(run.config["tuning"]["settings"]), run.seed)):
        tuning = run.config["tuning"]
        if tuning["row"] == row:
            by_settings.setdefault(str(tuning["settings"]), (tuning["settings"], []))[1].append(run)
    return list(by_settings.values())


def _sort_key(settings: dict[str, Any]) -> tuple[tuple[int, float, str], ...]:
    """Numbers by size, then words."""
    return tuple(
        (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value)) for value in settings.values()
    )
