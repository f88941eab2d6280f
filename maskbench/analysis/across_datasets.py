"""One view over several data sets: the middle of a strategy's runs, and how likely it beats the baseline."""

from typing import Any

import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.comparison import BASELINE, PRIMARY, heading, stable
from maskbench.analysis.results import Results, is_control
from maskbench.analysis.statistics import Estimate
from maskbench.analysis.table_formats import Column, Row, Section

Scores = dict[str, dict[str, list[float]]]  # label -> data -> accuracies, a run each


def sections(results: Results, baseline: str = BASELINE) -> list[Section]:
    """For groups that differ in data alone, two and more: each strategy that was run on all of them.

    A row: {"label", "n" (runs), "iqm": {"mean", "low", "high"}, "improvement": {"mean", "low", "high"} (the chance that
    a run beats one of the baseline's on the same data)}.
    """
    complete = by_data(results.frame)
    found = [_section(rest, members, baseline) for rest, members in complete.groupby("rest", sort=True)]
    return [section for section in found if section["rows"]]


def by_data(frame: pd.DataFrame) -> pd.DataFrame:
    """The complete runs, with their group in two: "data" and the "rest", the same where groups differ in data alone."""
    complete = frame[frame["status"] == "complete"]
    data, rest = ([group.split(" | ", 1)[part] for group in complete["group"]] for part in (0, 1))
    return complete.assign(data=data, rest=rest)


def _section(rest: Any, members: pd.DataFrame, baseline: str) -> Section:
    data = sorted(set(members["data"]))
    metric = next((name for name in PRIMARY if name in members and members[name].notna().any()), PRIMARY[0])
    scores: Scores = {}
    if metric in members and len(data) > 1:
        known = members.dropna(subset=[metric])
        for (label, name), runs in known.groupby(["label", "data"]):
            scores.setdefault(str(label), {})[str(name)] = runs[metric].tolist()
    scores = {label: runs for label, runs in scores.items() if len(runs) == len(data)}
    rows = [_row(label, runs, scores.get(baseline), label == baseline) for label, runs in scores.items()]
    rows.sort(key=lambda row: (-row["iqm"]["mean"], row["label"]))
    section = {"group": f"{'; '.join(data)} | {rest}", "about": "Across data", "baseline": baseline, "rows": rows}
    return {**section, "notes": _notes(len(data), metric, baseline if baseline in scores else None)}


def _row(label: str, runs: dict[str, list[float]], theirs: dict[str, list[float]] | None, itself: bool) -> Row:
    row: Row = {"label": label, "n": sum(map(len, runs.values()))}
    enough = min(map(len, runs.values())) >= statistics.ENOUGH
    row["iqm"] = _estimate(statistics.interquartile_mean([runs[data] for data in sorted(runs)]), enough)
    if theirs is not None and not itself and not is_control(label):
        pairs = [[side[data] for data in sorted(runs)] for side in (runs, theirs)]
        enough &= min(map(len, theirs.values())) >= statistics.ENOUGH
        row["improvement"] = _estimate(statistics.probability_of_improvement(*pairs), enough)
    return row


def _estimate(found: Estimate, enough: bool) -> dict[str, float | None]:
    """Without an interval where a bootstrap has next to nothing to draw from."""
    low, high = (found.low, found.high) if enough else (None, None)
    return {"mean": stable(found.value), "low": stable(low), "high": stable(high)}


def columns_of(section: Section) -> list[Column]:
    """Both with their intervals."""

    def shown(name: str) -> Column:
        def cell(row: Row) -> str | None:
            if name not in row:
                return None
            found = row[name]
            interval = "" if found["low"] is None else f" [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
            return f"{100 * found['mean']:.1f}{interval}"

        return Column("interquartile mean" if name == "iqm" else f"P(beats {section['baseline']})", cell)

    return [Column("n", lambda row: str(row["n"])), shown("iqm"), shown("improvement")]


def _notes(data: int, metric: str, baseline: str | None) -> list[str]:
    said = [
        f"The mean of the middle half of all runs over {data} data sets, {heading(metric)}, in %, with a 95 % "
        f"bootstrap interval that draws runs anew within each data set; none below three runs on each."
    ]
    if baseline is not None:
        said.append(f"P: the chance in % that a run beats one of {baseline}'s on the same data, averaged over data.")
    return said
