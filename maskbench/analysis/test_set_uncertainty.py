"""What the choice of test images alone adds: two trained models on the same images, seed by seed, from predictions."""

from typing import Any

import numpy as np

from maskbench.analysis import statistics
from maskbench.analysis.comparison import BASELINE, PRIMARY, heading, stable
from maskbench.analysis.results import Results, is_control
from maskbench.analysis.table_formats import Column, Row, Section, signed


def sections(results: Results, baseline: str = BASELINE) -> list[Section]:
    """For each group with the baseline whose test predictions are kept: each strategy's differences from it.

    A row: {"label", "n" (seeds), "images", "difference": {"mean" (over seeds), "half" (of the 95 % interval of one
    pair of models, the mean over seeds)}, "apart" (seeds whose McNemar p is below 5 %, Holm-corrected over the row)}.
    """
    found = []
    frame = results.frame
    for group, members in frame[frame["status"] == "complete"].groupby("group", sort=True):
        known = next((metric for metric in PRIMARY if metric in members and members[metric].notna().any()), None)
        if known is None:
            continue
        right: dict[str, dict[int, np.ndarray]] = {}
        for run_id, label, seed in zip(members["run_id"], members["label"], members["seed"], strict=True):
            correct = None if is_control(label) else _correct(results, run_id, known)
            if correct is not None:
                right.setdefault(label, {})[int(seed)] = correct
        others = sorted(right.keys() - {baseline})
        rows = [_row(label, right[label], right[baseline]) for label in others] if baseline in right else []
        rows = [row for row in rows if row["n"]]
        rows.sort(key=lambda row: (-row["difference"]["mean"], row["label"]))
        if rows:
            section = {"group": str(group), "about": "Test sample", "baseline": baseline, "metric": known, "rows": rows}
            found.append({**section, "notes": _notes(section)})
    return found


def _correct(results: Results, run_id: str, metric: str) -> np.ndarray | None:
    """(n,) bool, or None where predictions are not kept."""
    stored = results.predictions(run_id)
    name = metric.replace("/top1/", "/")
    return None if stored is None or name not in stored else stored[name] == stored["labels"]


def _row(label: str, ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]) -> Row:
    seeds = sorted(seed for seed in ours.keys() & theirs.keys() if len(ours[seed]) == len(theirs[seed]))
    found = [statistics.test_sample_difference(ours[seed], theirs[seed]) for seed in seeds]
    row: Row = {"label": label, "n": len(seeds)}
    if not found:
        return row
    p_values = statistics.holm([_known(each.p) for each in found])
    half = float(np.mean([(_known(each.high) - _known(each.low)) / 2 for each in found]))
    return row | {
        "images": len(ours[seeds[0]]),
        "difference": {"mean": stable(float(np.mean([each.mean for each in found]))), "half": stable(half)},
        "apart": sum(p < 1 - statistics.CONFIDENCE for p in p_values),
    }


def _known(value: float | None) -> float:
    assert value is not None, "given by test_sample_difference"
    return value


def columns_of(section: Section) -> list[Column]:
    """The difference with what the test images leave open, and in how many seeds they tell the two apart."""

    def difference(row: dict[str, Any]) -> str:
        return f"{signed(row['difference']['mean'])} ± {100 * row['difference']['half']:.1f}"

    return [
        Column("n", lambda row: str(row["n"])),
        Column("test images", lambda row: f"{row['images']:,}"),
        Column(f"Δ {section['baseline']}", difference),
        Column("seeds told apart", lambda row: f"{row['apart']} of {row['n']}"),
    ]


def _notes(section: Section) -> list[str]:
    return [
        f"Uncertainty of the test sample, from stored predictions, {heading(section['metric'])}: two trained models of "
        f"the same seed on the same images. ±: half of the 95 % interval of one such difference, the mean over seeds; "
        f"told apart: McNemar's exact test, Holm-corrected over the seeds of a row.",
        "It says nothing about other seeds: that is in the comparison.",
    ]
