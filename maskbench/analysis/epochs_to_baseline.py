"""Who learns faster: when a strategy first reads what the baseline reads at its end, from the online k-NN curves."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskbench.analysis.metrics import BASELINE
from maskbench.analysis.results import Results, is_control
from maskbench.analysis.sections import Column, Row, Section, make_column, round_known
from maskbench.record import RunRecord

READING = "online/knn/top1/mean"
MEASURES = {"epochs": "epoch", "seconds": "cost/train_s", "images": "images"}  # -> column of the curve


@dataclass(frozen=True)
class Amount:
    """How much training it took to reach the baseline's last reading.

    Attributes:
        median: Over seeds, in the unit of the measure; None where half of the seeds or more did not get there.
        share: The median over seeds of the amount divided by what the baseline's whole training took.
    """

    median: float | None
    share: float | None


@dataclass(kw_only=True)
class EpochsRow(Row):
    """A strategy.

    Attributes:
        n: Seeds that the strategy and the baseline both have.
        reached: The seeds in which it read what the baseline read at its end.
        amounts: By measure: epochs, seconds, images, tflops.
    """

    n: int
    reached: int
    amounts: dict[str, Amount]

    def to_json(self) -> dict[str, Any]:
        amounts = {name: {"mean": each.median, "share": each.share} for name, each in self.amounts.items()}
        return {"label": self.label, "n": self.n, "reached": self.reached, **amounts}


@dataclass(kw_only=True)
class EpochsSection(Section):
    """The runs of one group that have online readings.

    Attributes:
        baseline: The row whose last reading is to be reached.
    """

    rows: list[EpochsRow]
    baseline: str

    def details(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def columns(self) -> list[Column]:
        rows = self.rows
        return [
            make_column("reached", rows, lambda row: f"{row.reached} of {row.n}"),
            make_column("epochs", rows, lambda row: _format(row.amounts["epochs"].median, "{:.0f}")),
            make_column(f"time, of {self.baseline}'s", rows, lambda row: _format_share(row.amounts["seconds"])),
            make_column(f"FLOPs, of {self.baseline}'s", rows, lambda row: _format_share(row.amounts["tflops"])),
        ]

    @property
    def notes(self) -> list[str]:
        return [
            f"Along one schedule, from online k-NN readings on validation: when a strategy first read what "
            f"{self.baseline} read at its end, seed by seed, and the median over seeds; – where half or more did not "
            f"get there.",
            f"{self.baseline} itself shows how far the noise of the readings reaches.",
            "The learning rate of an unfinished schedule is still high: a schedule of that length would end elsewhere; "
            "a suite with a budget trains it.",
        ]


def make_sections(results: Results, baseline: str = BASELINE) -> list[EpochsSection]:
    """A section for each group with the baseline and another strategy, both with online readings."""
    by_id = {record.run_id: record for record in results.records}
    sections = []
    for group, members in results.frame.groupby("group", sort=True):
        runs: dict[str, dict[int, RunRecord]] = {}
        for run_id, label, seed in zip(members["run_id"], members["label"], members["seed"], strict=True):
            if _has_readings(by_id[run_id]) and not is_control(str(label)):
                runs.setdefault(str(label), {})[int(seed)] = by_id[run_id]
        if baseline in runs and len(runs) > 1:
            rows = [_make_row(label, by_seed, runs[baseline]) for label, by_seed in sorted(runs.items())]
            rows.sort(key=_sort_key)
            about = f"Epochs to the accuracy at which {baseline} ends"
            sections.append(EpochsSection(group=str(group), about=about, baseline=baseline, rows=rows))
    return sections


def _has_readings(record: RunRecord) -> bool:
    return record.status == "complete" and any(READING in row for row in record.curve)


def _sort_key(row: EpochsRow) -> tuple[float, str]:
    share = row.amounts["images"].share
    return math.inf if share is None else share, row.label


def _make_row(label: str, ours: Mapping[int, RunRecord], theirs: Mapping[int, RunRecord]) -> EpochsRow:
    seeds = sorted(ours.keys() & theirs.keys())
    reached = {seed: _first_reaching(ours[seed], _last_reading(theirs[seed])[READING]) for seed in seeds}
    amounts = {}
    for name in (*MEASURES, "tflops"):
        own = [math.inf if row is None else _amount(name, ours[seed], row) for seed, row in reached.items()]
        whole = [_amount(name, theirs[seed], _last_reading(theirs[seed])) for seed in seeds]
        amounts[name] = Amount(_median(own), _median([one / all_ for one, all_ in zip(own, whole, strict=True)]))
    return EpochsRow(
        label=label, n=len(seeds), reached=sum(row is not None for row in reached.values()), amounts=amounts
    )


def _first_reaching(record: RunRecord, target: float) -> dict[str, float] | None:
    """The first row of the curve whose reading is the target or more."""
    return next((row for row in record.curve if row.get(READING, -1.0) >= target), None)


def _last_reading(record: RunRecord) -> dict[str, float]:
    return next(row for row in reversed(record.curve) if READING in row)


def _amount(name: str, record: RunRecord, row: dict[str, float]) -> float:
    if name == "tflops":
        return record.metrics["cost/gflops_per_image"] * row["images"] / 1000
    return row[MEASURES[name]]


def _median(values: list[float]) -> float | None:
    """None where it is infinite: half of the seeds or more did not get there."""
    median = statistics.median(values) if values else math.inf
    return round_known(median) if math.isfinite(median) else None


def _format(value: float | None, form: str) -> str | None:
    return None if value is None else form.format(value)


def _format_share(amount: Amount) -> str | None:
    return None if amount.share is None else f"{100 * amount.share:.0f} %"
