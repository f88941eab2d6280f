"""Which of the settings that were tried is best for each row of a suite: by validation alone, never by test."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskbench.record import VALIDATION, RunRecord

DECIDING = ("linear/top1/mean", "linear/top1/cls", "knn/top1/mean", "knn/top1/cls")  # the first that there is


def deciding(trials: Sequence[RunRecord]) -> str | None:
    """The metric by which trials are compared: the first of DECIDING that one of them has."""
    return next(
        (VALIDATION + name for name in DECIDING if any(VALIDATION + name in each.metrics for each in trials)), None
    )


def chosen(trials: Sequence[RunRecord], row: str) -> dict[str, Any] | None:
    """The row's best combination of settings: the highest mean over seeds, ties to the smaller values. None where no
    combination was completed with every seed that was tried: what diverges with one is not chosen for being good with
    another."""
    metric = deciding(trials)
    best, found = -np.inf, None
    tried = combinations(trials, row)
    seeds = {run.seed for _, runs in tried for run in runs}
    for settings, runs in tried:
        scores = [run.metrics[metric] for run in runs if metric in run.metrics]
        if metric is not None and len(scores) == len(seeds) and float(np.mean(scores)) > best:
            best, found = float(np.mean(scores)), settings
    return found


def combinations(trials: Sequence[RunRecord], row: str) -> list[tuple[dict[str, Any], list[RunRecord]]]:
    """The row's combinations and their runs, by seed; combinations in the order of their values."""
    found: dict[str, tuple[dict[str, Any], list[RunRecord]]] = {}
    for run in sorted(trials, key=lambda run: (_order(run.config["tuning"]["settings"]), run.seed)):
        tuning = run.config["tuning"]
        if tuning["row"] == row:
            found.setdefault(str(tuning["settings"]), (tuning["settings"], []))[1].append(run)
    return list(found.values())


def _order(settings: dict[str, Any]) -> tuple[tuple[int, float, str], ...]:
    """Numbers by size, then words."""
    return tuple(
        (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value)) for value in settings.values()
    )
