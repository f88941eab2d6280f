"""One view over several data sets: the middle of a strategy's runs, and how likely it beats the baseline."""

from typing import Any

import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.comparison import BASELINE, PRIMARY, heading, stable
from maskbench.analysis.formats import Column, Row, Section
from maskbench.analysis.results import CONTROLS, Results
from maskbench.analysis.statistics import Estimate

Scores = dict[str, dict[str, list[float]]]  # label -> data -> accuracies, a run each


def sections(results: Results, baseline: str = BASELINE) -> list[Section]:
    """For groups that differ in data alone, two and more: each strategy that was run on all of them.

    A row: {"label", "n" (runs), "iqm": {"mean", "low", "high"}, "improvement": {"mean", "low", "high"} (the chance that
    a run beats one of the baseline's on the same data)}.
    """
    frame = results.frame
    if not len(frame):
        return []
    complete = frame[frame["status"] == "complete"]
    complete = complete.assign(data=complete["group"].str.partition(" | ")[0], rest=complete["group"].map(_rest))
    found = [_section(rest, members, baseline) for rest, members in complete.groupby("rest", sort=True)]
    return [section for section in found if section["rows"]]


def _rest(group: str) -> str:
    """What two groups that differ in data alone share."""
    return group.split(" | ", 1)[1]


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
    row["iqm"] = _estimate(statistics.interquartile_mean([runs[data] for data in sorted(runs)]))
    if theirs is not None and not itself and label.split(" ")[0] not in CONTROLS:
        pairs = [[side[data] for data in sorted(runs)] for side in (runs, theirs)]
        row["improvement"] = _estimate(statistics.probability_of_improvement(*pairs))
    return row


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {"mean": stable(found.value), "low": stable(found.low), "high": stable(found.high)}


def columns_of(section: Section) -> list[Column]:
    """Both with their intervals."""

    def shown(name: str) -> Column:
        def cell(row: Row) -> str | None:
            if name not in row:
                return None
            mean, low, high = (100 * row[name][key] for key in ("mean", "low", "high"))
            return f"{mean:.1f} [{low:.1f}, {high:.1f}]"

        return Column("interquartile mean" if name == "iqm" else f"P(beats {section['baseline']})", cell)

    return [Column("n", lambda row: str(row["n"])), shown("iqm"), shown("improvement")]


def _notes(data: int, metric: str, baseline: str | None) -> list[str]:
    said = [
        f"The mean of the middle half of all runs over {data} data sets, {heading(metric)}, in %, with a 95 % "
        f"bootstrap interval that draws runs anew within each data set."
    ]
    if baseline is not None:
        said.append(f"P: the chance in % that a run beats one of {baseline}'s on the same data, averaged over data.")
    return said
