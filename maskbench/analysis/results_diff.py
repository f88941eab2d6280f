"""Two sets of results against each other: what changed, and whether by more than noise."""

from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from maskbench.analysis import statistics
from maskbench.analysis.comparison import METRICS, heading
from maskbench.analysis.results import load_results
from maskbench.errors import UsageError

ALPHA = 1 - statistics.CONFIDENCE


def compared(before: Path, after: Path) -> list[dict[str, Any]]:
    """A row for each strategy and metric of two result folders, or of a paper's CSV and a folder.

    {"group", "strategy", "metric", "n", "before", "after", "low", "high" (of after - before), "verdict"}. Folders are
    matched by group (data, model, budget, protocols), strategy and seed; the seeds of both are paired, and p values
    Holm-corrected over all rows. A paper's numbers have no seeds to pair, so its value is held against the interval of
    ours. Strategies that only one side has are rows with a verdict and nothing to compare. UsageError where nothing is
    in common.
    """
    paper = before.suffix == ".csv"
    theirs = read_paper(before) if paper else load_results(before)
    ours = load_results(after)
    ours = ours[ours["status"] == "complete"] if len(ours) else ours
    rows = _against_paper(theirs, ours) if paper else _against_results(theirs, ours)
    if not any(row["n"] for row in rows):
        raise UsageError(
            f"{before} and {after} have no strategy in common on the same data, model, budget and protocols; "
            f"`maskbench table` shows what each has"
        )
    return rows


def read_paper(path: Path) -> pd.DataFrame:
    """A CSV with a column `strategy` and one or more of METRICS, in shares or in %. UsageError where it is another."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    metrics = [name for name in METRICS if name in table]
    if "strategy" not in table or not metrics:
        raise UsageError(
            f"{path} needs a column strategy and one of {', '.join(METRICS)}; it has {', '.join(map(str, table))}"
        )
    for name in metrics:
        values = pd.to_numeric(table[name], errors="coerce")
        if values.isna().sum() > table[name].isna().sum():
            raise UsageError(f"{path}: column {name} has values that are no numbers")
        table[name] = values / 100 if values.max() > 1 else values
    return table


def _against_paper(theirs: pd.DataFrame, ours: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for _, line in theirs.iterrows():
        found = ours[ours["label"] == line["strategy"]]
        if not len(found):
            rows.append(_only("", line["strategy"], "only in the paper"))
        for group, runs in found.groupby("group", sort=True):
            for metric in METRICS:
                if metric not in line or pd.isna(line[metric]) or metric not in runs:
                    continue
                mean = statistics.mean_interval(runs[metric].dropna().tolist())
                low, high = (None if bound is None else bound - line[metric] for bound in (mean.low, mean.high))
                if low is None or high is None:
                    verdict = "one run: cannot be judged"
                else:
                    verdict = "within our interval" if low <= 0 <= high else "outside our interval"
                rows.append(_row(str(group), line["strategy"], metric, len(runs), line[metric], mean.value, low, high))
                rows[-1]["verdict"] = verdict
    return rows


def _against_results(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, Any]]:
    before = before[before["status"] == "complete"] if len(before) else before
    sides = [_by_row(side) for side in (before, after)]
    rows, tested = [], []
    for group, label in sorted(sides[0].keys() | sides[1].keys()):
        old, new = (side.get((group, label)) for side in sides)
        if old is None or new is None:
            rows.append(_only(group, label, f"only in the {'second' if old is None else 'first'}"))
            continue
        for metric in METRICS:
            if metric not in old or metric not in new:
                continue
            values = [dict(zip(side["seed"], side[metric], strict=True)) for side in (old, new)]
            common = sorted(seed for seed in values[0].keys() & values[1].keys())
            first, second = ({seed: float(side[seed]) for seed in common if pd.notna(side[seed])} for side in values)
            found = statistics.paired_difference(second, first)
            if found is None:
                continue
            old_mean, new_mean = (sum(side.values()) / len(side) for side in (first, second))
            rows.append(_row(group, label, metric, found.n, old_mean, new_mean, found.low, found.high))
            if first == second:
                rows[-1]["verdict"] = "the same to the last digit"
            elif found.p is None:
                rows[-1]["verdict"] = f"differs; {found.n} seeds in common are too few to judge"
            else:
                tested.append((rows[-1], found.p))
    for (row, _), p in zip(tested, statistics.holm([p for _, p in tested]), strict=True):
        row["verdict"] = f"changed (p = {p:.2g})" if p < ALPHA else f"not beyond noise (p = {p:.2g})"
    return rows


def _by_row(results: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    return {
        (str(runs["group"].iloc[0]), str(runs["label"].iloc[0])): runs
        for _, runs in results.groupby(["group", "label"])
    }


def _row(
    group: str, strategy: str, metric: str, n: int, before: float, after: float, low: float | None, high: float | None
) -> dict[str, Any]:
    return {
        "group": group, "strategy": strategy, "metric": metric, "n": n,
        "before": before, "after": after, "low": low, "high": high,
    }  # fmt: skip


def _only(group: str, strategy: str, verdict: str) -> dict[str, Any]:
    empty = dict.fromkeys(("metric", "before", "after", "low", "high"))
    return {**empty, "group": group, "strategy": strategy, "n": 0, "verdict": verdict}


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """A table for each group, accuracies in %."""
    parts = []
    for group in dict.fromkeys(row["group"] for row in rows):
        body = [
            [
                row["strategy"],
                heading(row["metric"]) if row["metric"] else "–",
                row["n"],
                *(_percent(row[side]) for side in ("before", "after")),
                _change(row),
                row["verdict"],
            ]
            for row in rows
            if row["group"] == group
        ]
        headers = ["strategy", "metric", "n", "first", "second", "change, 95 % interval", "verdict"]
        table = tabulate(body, headers, tablefmt="pipe", disable_numparse=True)
        parts.append(f"**{group.replace(' | ', '; ')}**\n\n{table}\n" if group else f"{table}\n")
    return "\n".join(parts)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _change(row: dict[str, Any]) -> str:
    if row["before"] is None:
        return "–"
    interval = "" if row["low"] is None else f" [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
    return f"{100 * (row['after'] - row['before']):+.2f}{interval}"
