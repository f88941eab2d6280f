"""Who learns faster: when online k-NN reads, twice in a row, what the baseline reads at its end."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskbench.analysis.metrics import BASELINE
from maskbench.analysis.results import Results, is_control
from maskbench.analysis.sections import Column, Row, Section, make_column, round_known
from maskbench.analysis.statistics import MIN_SEEDS
from maskbench.record import RunRecord

READING = "online/knn/top1/mean"
RESAMPLES = 2_000  # of the baseline against itself
MEASURES = {"epochs": "epoch", "seconds": "cost/train_s", "images": "images"}  # -> column of the curve


@dataclass(frozen=True)
class Amount:
    """How much training it took to reach the target.

    Attributes:
        median: Over seeds, in the unit of the measure; None where half of the seeds or more did not get there.
        low: The least over seeds; None where none got there.
        high: The most over seeds; None where one did not get there.
        share: The median divided by what the baseline's whole training took, the mean over its seeds.
    """

    median: float | None
    low: float | None
    high: float | None
    share: float | None


@dataclass(kw_only=True)
class EpochsRow(Row):
    """A strategy.

    Attributes:
        n: Seeds.
        reached: The seeds in which it read the target, or more, twice in a row.
        amounts: By measure: epochs, seconds, images, tflops.
    """

    n: int
    reached: int
    amounts: dict[str, Amount]

    def to_json(self) -> dict[str, Any]:
        amounts = {
            name: {"mean": each.median, "low": each.low, "high": each.high, "share": each.share}
            for name, each in self.amounts.items()
        }
        return {"label": self.label, "n": self.n, "reached": self.reached, **amounts}


@dataclass(kw_only=True)
class EpochsSection(Section):
    """The runs of one group that have online readings.

    Attributes:
        baseline: The row whose last reading is to be reached.
        target: That reading, the mean over its seeds: one number for all.
        false_sooner: How often a strategy that is the baseline itself gets there before the end, in [0, 1]; None below
            MIN_SEEDS seeds.
    """

    rows: list[EpochsRow]
    baseline: str
    target: float
    false_sooner: float | None

    def details(self) -> dict[str, Any]:
        return {"baseline": self.baseline, "target": self.target, "false_sooner": self.false_sooner}

    def columns(self) -> list[Column]:
        rows = self.rows
        return [
            make_column("reached", rows, lambda row: f"{row.reached} of {row.n}"),
            make_column("epochs", rows, lambda row: _format_range(row.amounts["epochs"])),
            make_column(f"time, of {self.baseline}'s", rows, lambda row: _format_share(row.amounts["seconds"])),
            make_column(f"FLOPs, of {self.baseline}'s", rows, lambda row: _format_share(row.amounts["tflops"])),
        ]

    @property
    def notes(self) -> list[str]:
        notes = [
            f"Along one schedule, from online k-NN readings on validation: the first epoch of two readings in a row of "
            f"{100 * self.target:.1f} % or more, what {self.baseline} reads at its end (mean over its seeds). Median "
            f"over seeds, in brackets the least and the most; – where half or more did not get there.",
            f"{self.baseline} itself shows how far the noise of the readings reaches.",
        ]
        if self.false_sooner is not None:
            notes.append(
                f"A strategy that is {self.baseline} itself would get there before the end in "
                f"{100 * self.false_sooner:.0f} % of cases ({RESAMPLES:,} resamples of its seeds): the share of the "
                f"training must be clearly smaller than that of {self.baseline} to mean anything."
            )
        return [
            *notes,
            "The learning rate of an unfinished schedule is still high: a schedule of that length would end elsewhere; "
            "a suite with a budget trains it.",
        ]


def make_sections(results: Results, baseline: str = BASELINE) -> list[EpochsSection]:
    """A section for each group with the baseline and another strategy, both with online readings."""
    by_id = {record.run_id: record for record in results.records}
    sections = []
    for group, members in results.frame.groupby("group", sort=True):
        runs: dict[str, list[RunRecord]] = {}
        for run_id, label in zip(members["run_id"], members["label"], strict=True):
            if has_readings(by_id[run_id]) and not is_control(str(label)):
                runs.setdefault(str(label), []).append(by_id[run_id])
        if baseline in runs and len(runs) > 1:
            sections.append(_make_section(str(group), runs, baseline))
    return sections


def _make_section(group: str, runs: dict[str, list[RunRecord]], baseline: str) -> EpochsSection:
    theirs = runs[baseline]
    target = statistics.mean(map(last_accuracy, theirs))
    whole = {name: statistics.mean(_amount(name, run, _last_reading(run)) for run in theirs)
             for name in (*MEASURES, "tflops")}  # fmt: skip
    rows = [_make_row(label, own, target, whole) for label, own in sorted(runs.items())]
    return EpochsSection(
        group=group,
        about=f"Epochs to the accuracy at which {baseline} ends",
        baseline=baseline,
        rows=sorted(rows, key=_sort_key),
        target=round_known(target),
        false_sooner=_false_sooner(theirs) if len(theirs) >= MIN_SEEDS else None,
    )


def _false_sooner(runs: Sequence[RunRecord]) -> float:
    """How often the median of seeds drawn from the baseline gets, before the end, to the target of other seeds drawn
    from it."""
    generator = np.random.default_rng(0)
    last = np.array([last_accuracy(run) for run in runs])
    epochs = _last_reading(runs[0])["epoch"]
    hits = 0
    for _ in range(RESAMPLES):
        ours, theirs = generator.integers(len(runs), size=(2, len(runs)))
        target = float(last[theirs].mean())
        reached = [first_reaching(runs[place], target) for place in ours]
        hits += statistics.median(math.inf if row is None else row["epoch"] for row in reached) < epochs
    return round_known(hits / RESAMPLES)


def has_readings(record: RunRecord) -> bool:
    """Whether a run was completed and read by online k-NN on the way."""
    return record.status == "complete" and any(READING in row for row in record.curve)


def _sort_key(row: EpochsRow) -> tuple[float, str]:
    share = row.amounts["images"].share
    return math.inf if share is None else share, row.label


def _make_row(label: str, runs: Sequence[RunRecord], target: float, whole: dict[str, float]) -> EpochsRow:
    reached = [first_reaching(run, target) for run in runs]
    amounts = {}
    for name, all_ in whole.items():
        own = [math.inf if row is None else _amount(name, run, row) for run, row in zip(runs, reached, strict=True)]
        median = statistics.median(own)
        amounts[name] = Amount(_finite(median), _finite(min(own)), _finite(max(own)), _finite(median / all_))
    return EpochsRow(label=label, n=len(runs), reached=sum(row is not None for row in reached), amounts=amounts)


def first_reaching(record: RunRecord, target: float) -> dict[str, float] | None:
    """The first row of the curve whose reading, and the next one, are the target or more: one alone may be noise."""
    readings = [row for row in record.curve if READING in row]
    pairs = itertools.pairwise(readings)
    return next((row for row, after in pairs if min(row[READING], after[READING]) >= target), None)


def last_accuracy(record: RunRecord) -> float:
    """The last online reading of a run that has some, in [0, 1]."""
    return _last_reading(record)[READING]


def _last_reading(record: RunRecord) -> dict[str, float]:
    return next(row for row in reversed(record.curve) if READING in row)


def _amount(name: str, record: RunRecord, row: dict[str, float]) -> float:
    if name == "tflops":
        return record.metrics["cost/gflops_per_image"] * row["images"] / 1000
    return row[MEASURES[name]]


def _finite(value: float) -> float | None:
    """None where it is infinite: the target was not reached."""
    return round_known(value) if math.isfinite(value) else None


def _format_range(amount: Amount) -> str | None:
    if amount.median is None:
        return None
    high = "never" if amount.high is None else f"{amount.high:.0f}"
    return f"{amount.median:.0f} [{amount.low:.0f}, {high}]"


def _format_share(amount: Amount) -> str | None:
    return None if amount.share is None else f"{100 * amount.share:.0f} %"
