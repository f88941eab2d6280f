"""Who learns faster: when a strategy is where the baseline ends, read along one schedule from the online curves."""

import math
import statistics

from maskbench.analysis.comparison import BASELINE, stable
from maskbench.analysis.results import Results, is_control
from maskbench.analysis.table_formats import Column, Row, Section
from maskbench.record import RunRecord

READING = "online/knn/top1/mean"
MEASURES = {"epochs": "epoch", "seconds": "cost/train_s", "images": "images"}  # -> column of the curve


def sections(results: Results, baseline: str = BASELINE) -> list[Section]:
    """For each group with the baseline: when each strategy's online k-NN first reads what the baseline's last reading
    of the same seed was.

    A row: {"label", "n" (common seeds), "reached" (of them), "epochs", "seconds", "images", "tflops": {"mean" (the
    median over seeds, None where half or more did not get there), "share" (of what the baseline took in all)}}.
    """
    by_id = {record.run_id: record for record in results.records}
    found = []
    for group, members in results.frame.groupby("group", sort=True):
        curves: dict[str, dict[int, RunRecord]] = {}
        for run_id, label, seed in zip(members["run_id"], members["label"], members["seed"], strict=True):
            record = by_id[run_id]
            read = record.status == "complete" and any(READING in row for row in record.curve)
            if read and not is_control(str(label)):
                curves.setdefault(str(label), {})[int(seed)] = record
        if baseline in curves and len(curves) > 1:
            rows = [_row(label, runs, curves[baseline]) for label, runs in sorted(curves.items())]
            rows.sort(key=lambda row: (row["images"]["share"] is None, row["images"]["share"], row["label"]))
            about = f"Epochs to the accuracy at which {baseline} ends"
            section = {"group": str(group), "about": about, "baseline": baseline, "rows": rows}
            found.append({**section, "notes": _notes(baseline)})
    return found


def _row(label: str, ours: dict[int, RunRecord], theirs: dict[int, RunRecord]) -> Row:
    seeds = sorted(ours.keys() & theirs.keys())
    places = {seed: _reached(ours[seed], _last(theirs[seed])[READING]) for seed in seeds}
    row: Row = {"label": label, "n": len(seeds), "reached": sum(place is not None for place in places.values())}
    for name in (*MEASURES, "tflops"):
        amounts = [math.inf if place is None else _amount(name, ours[seed], place) for seed, place in places.items()]
        whole = [_amount(name, theirs[seed], _last(theirs[seed])) for seed in seeds]
        median = statistics.median(amounts) if amounts else math.inf
        shares = [amount / all_ for amount, all_ in zip(amounts, whole, strict=True)]
        share = statistics.median(shares) if shares else math.inf
        row[name] = {"mean": _finite(median), "share": _finite(share)}
    return row


def _reached(record: RunRecord, target: float) -> dict[str, float] | None:
    """The first row of the curve whose reading is the target or more."""
    return next((row for row in record.curve if row.get(READING, -1.0) >= target), None)


def _last(record: RunRecord) -> dict[str, float]:
    return next(row for row in reversed(record.curve) if READING in row)


def _amount(name: str, record: RunRecord, row: dict[str, float]) -> float:
    if name == "tflops":
        return record.metrics["cost/gflops_per_image"] * row["images"] / 1000
    return row[MEASURES[name]]


def _finite(value: float) -> float | None:
    return stable(value) if math.isfinite(value) else None


def columns_of(section: Section) -> list[Column]:
    """How often, after how many epochs, and with which share of the baseline's time and computation."""
    return [
        Column("reached", lambda row: f"{row['reached']} of {row['n']}"),
        Column("epochs", lambda row: _shown(row["epochs"]["mean"], "{:.0f}")),
        Column(f"time, of {section['baseline']}'s", lambda row: _percent(row["seconds"]["share"])),
        Column(f"FLOPs, of {section['baseline']}'s", lambda row: _percent(row["tflops"]["share"])),
    ]


def _shown(value: float | None, form: str) -> str | None:
    return None if value is None else form.format(value)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"


def _notes(baseline: str) -> list[str]:
    return [
        f"Along one schedule, from online k-NN readings on validation: when a strategy first read what {baseline} read "
        f"at its end, seed by seed, and the median over seeds; – where half or more did not get there.",
        f"{baseline} itself shows how far the noise of the readings reaches.",
        "The learning rate of an unfinished schedule is still high: a schedule of that length would end elsewhere; a "
        "suite with a budget trains it.",
    ]
