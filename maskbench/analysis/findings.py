"""What a comparison says, in sentences that claim no more than its statistics do."""

import statistics
from collections.abc import Sequence
from typing import Any

from maskbench.analysis.comparison import heading
from maskbench.analysis.figures.accuracy_against_cost import front
from maskbench.analysis.statistics import CONFIDENCE, ENOUGH
from maskbench.analysis.table_formats import UNFINISHED, Row, Section, signed

RATE = "cost/images_per_s"
NAMED = 6  # rows in a sentence
FASTER = 1.1  # times; machines do not repeat their times more closely


def findings(section: Section) -> list[str]:
    """Sentences, the most important first; empty where nothing is complete."""
    metric = section["metric"]
    rows = [row for row in section["rows"] if not row["control"] and metric in row]
    if not rows:
        return ["No run of a strategy is complete."]
    said = [_best(rows, metric), *_against(section, rows), *_controls(section["rows"], rows[0], metric)]
    said += _cost(rows, metric)
    unfinished = [
        f"{row['label']} ({row[status]} {status})" for row in section["rows"] for status in UNFINISHED if row[status]
    ]
    if unfinished:
        said.append(f"Not complete: {_listed(unfinished)}.")
    if section["dataset"] == "shapes":
        said.append(
            "These are generated images: they show how the tool compares, and are no evidence about photographs."
        )
    return said


def _best(rows: Sequence[Row], metric: str) -> str:
    first = rows[0]
    figure = f"{_percent(first[metric]['mean'])} in {heading(metric)}"
    if len(rows) == 1:
        return f"{first['label']} reaches {figure} (n = {first['n']})."
    lettered = [row for row in rows if "letters" in row]
    if not lettered:
        fewest = min(row["n"] for row in rows)
        few = f"n = {fewest}" + (" for some" if any(row["n"] > fewest for row in rows) else "")
        why = f"{few} is too few" if fewest < ENOUGH else "there are too many strategies"
        return f"{first['label']} has the highest mean, {figure}; {why} to say which are best."
    said = ""
    if "letters" not in first:
        said = f"{first['label']} has the highest mean, {figure}, from too few seeds to compare (n = {first['n']}). "
        first = lettered[0]
        figure = f"{_percent(first[metric]['mean'])} in {heading(metric)}"
    same = [row["label"] for row in lettered if row["best"] and row is not first]
    if same:
        return f"{said}{first['label']} has the highest mean, {figure}; {_listed(same)} cannot be told apart from it."
    return f"{said}{first['label']} is best, {figure}, told apart from every other strategy."


def _against(section: Section, rows: Sequence[Row]) -> list[str]:
    """Who differs from the baseline, and what could have been seen."""
    tested = [row for row in rows if row.get("difference", {}).get("p_holm") is not None]
    if not tested:
        return []
    apart = [row for row in tested if row["difference"]["p_holm"] < 1 - CONFIDENCE]
    better = [row for row in apart if row["difference"]["mean"] > 0]
    worse = [row for row in apart if row["difference"]["mean"] < 0]
    same = [row["label"] for row in tested if row not in apart]
    baseline, said = section["baseline"], []
    if better:
        said.append(f"Better than {baseline}: {_listed(map(_difference, better), '; ')}.")
    if worse:
        said.append(f"Worse than {baseline}: {_listed(map(_difference, worse), '; ')}.")
    if same:
        n = min(row["difference"]["n"] for row in tested if row["label"] in same)
        said.append(f"Not separable from {baseline} at n = {n:.0f}: {_listed(same)}.")
    middle = 100 * statistics.median(row["difference"]["detectable"] for row in tested)
    said.append(
        f"With these seeds, a true difference of {middle:.1f} points would be found four times in five, before the "
        f"correction for several comparisons."
    )
    return said


def _controls(rows: Sequence[Row], best: Row, metric: str) -> list[str]:
    controls = {row["label"]: row[metric]["mean"] for row in rows if row["control"] and metric in row}
    said = []
    if "random-init" in controls:
        gain = best[metric]["mean"] - controls["random-init"]
        few = f" (n = {best['n']})" if best["n"] < ENOUGH else ""
        said.append(
            f"The same encoder untrained (random-init) reads {_percent(controls['random-init'])}: pre-training with "
            f"{best['label']} changes that by {signed(gain)} points{few}."
        )
    if "supervised" in controls:
        said.append(f"Trained on the labels instead, it reads {_percent(controls['supervised'])}.")
    return said


def _cost(rows: Sequence[Row], metric: str) -> list[str]:
    points = {row["label"]: (row[RATE]["mean"], row[metric]["mean"]) for row in rows if RATE in row}
    if len(points) < 2:
        return []
    fastest = max(points, key=lambda label: points[label][0])
    alike = [label for label in points if label != fastest and FASTER * points[label][0] > points[fastest][0]]
    said = f"Fastest is {fastest}, at {points[fastest][0]:.0f} images/s"
    said += f", with {_listed(alike)} within a tenth of that" if alike else ""
    best = rows[0]["label"]
    if best in points and best not in (fastest, *alike):
        said += f", {points[fastest][0] / points[best][0]:.1f} times as fast as {best}"
    kept = front(points)
    if len(kept) > 1:
        said += f"; no strategy beats {_listed(kept)} in both speed and mean accuracy"
    return [f"{said}."]


def _difference(row: Row) -> str:
    found = row["difference"]
    return f"{row['label']}, {signed(found['mean'])} points [{signed(found['low'])}, {signed(found['high'])}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _listed(names: Any, comma: str = ", ") -> str:
    """ "a, b and c", of many the first ones."""
    names = list(names)
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} others"]
    return names[0] if len(names) == 1 else f"{comma.join(names[:-1])} and {names[-1]}"
