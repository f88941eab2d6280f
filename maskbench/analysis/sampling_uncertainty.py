"""What the choice of test images alone adds: two trained models on the same images, seed by seed, from predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.metrics import BASELINE, deciding_metric, heading
from maskbench.analysis.results import Results, is_control
from maskbench.analysis.sections import Column, Row, Section, format_points, make_column, round_known
from maskbench.analysis.statistics import SampleDifference

BySeed = dict[int, np.ndarray]  # seed -> (n,) bool, True where the test image is classified correctly


@dataclass(kw_only=True)
class SamplingRow(Row):
    """A strategy against the baseline.

    Attributes:
        n: Seeds that both have.
        images: Test images.
        mean: Difference of accuracies from the baseline, mean over seeds, in [-1, 1].
        half_width: Half of the 95 % interval of one such difference, which images alone leave open, mean over seeds.
        significant: Seeds in which McNemar's exact test has p below 5 %, Holm-corrected over all rows and seeds.
    """

    n: int
    images: int
    mean: float
    half_width: float
    significant: int

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "n": self.n,
            "images": self.images,
            "difference": {"mean": self.mean, "half": self.half_width},
            "apart": self.significant,
        }


@dataclass(kw_only=True)
class SamplingSection(Section):
    """The runs of one group whose test predictions are kept.

    Attributes:
        baseline: The row that others are compared with.
        metric: The metric whose predictions are compared.
    """

    rows: list[SamplingRow]
    about: str = "Test sample"
    baseline: str
    metric: str

    def details(self) -> dict[str, Any]:
        return {"baseline": self.baseline, "metric": self.metric}

    def columns(self) -> list[Column]:
        return [
            make_column("n", self.rows, lambda row: str(row.n)),
            make_column("test images", self.rows, lambda row: f"{row.images:,}"),
            make_column(f"Δ {self.baseline}", self.rows, _format_difference),
            make_column("seeds told apart", self.rows, lambda row: f"{row.significant} of {row.n}"),
        ]

    @property
    def notes(self) -> list[str]:
        return [
            f"Uncertainty of the test sample, from stored predictions, {heading(self.metric)}: two trained models of "
            f"the same seed on the same images. ±: half of the 95 % interval of one such difference, the mean over "
            f"seeds; told apart: McNemar's exact test, Holm-corrected over all rows and seeds.",
            "It says nothing about other seeds: that is in the comparison.",
        ]


def make_sections(results: Results, baseline: str = BASELINE) -> list[SamplingSection]:
    """A section for each group in which test predictions of the baseline and of another strategy are kept."""
    sections = []
    frame = results.frame
    for group, members in frame[frame["status"] == "complete"].groupby("group", sort=True):
        metric = deciding_metric(members)
        correct = {} if metric is None else _correct_by_label(results, members, metric)
        if metric is None or baseline not in correct:
            continue
        rows = _make_rows({label: own for label, own in correct.items() if label != baseline}, correct[baseline])
        if rows:
            sections.append(SamplingSection(group=str(group), baseline=baseline, metric=metric, rows=rows))
    return sections


def _correct_by_label(results: Results, members: pd.DataFrame, metric: str) -> dict[str, BySeed]:
    """Which test images each run classifies correctly, for runs of strategies whose predictions are kept."""
    by_label: dict[str, BySeed] = {}
    for run_id, label, seed in zip(members["run_id"], members["label"], members["seed"], strict=True):
        correct = None if is_control(label) else _correct(results, run_id, metric)
        if correct is not None:
            by_label.setdefault(str(label), {})[int(seed)] = correct
    return by_label


def _correct(results: Results, run_id: str, metric: str) -> np.ndarray | None:
    """(n,) bool, or None where predictions are not kept."""
    stored = results.predictions(run_id)
    name = metric.replace("/top1/", "/")
    return None if stored is None or name not in stored else stored[name] == stored["labels"]


def _make_rows(others: Mapping[str, BySeed], baseline: BySeed) -> list[SamplingRow]:
    """The rows that have a seed with as many images as the baseline's; p values corrected over all of them at once."""
    differences = {
        label: [
            statistics.mcnemar_difference(own[seed], baseline[seed])
            for seed in sorted(own.keys() & baseline.keys())
            if len(own[seed]) == len(baseline[seed])
        ]
        for label, own in sorted(others.items())
    }
    corrected = iter(statistics.holm_adjust([each.p for own in differences.values() for each in own]))
    rows = [_make_row(label, own, [next(corrected) for _ in own]) for label, own in differences.items() if own]
    return sorted(rows, key=lambda row: (-row.mean, row.label))


def _make_row(label: str, differences: Sequence[SampleDifference], p_values: Sequence[float]) -> SamplingRow:
    half_widths = [(each.high - each.low) / 2 for each in differences]
    return SamplingRow(
        label=label,
        n=len(differences),
        images=differences[0].n,
        mean=round_known(float(np.mean([each.mean for each in differences]))),
        half_width=round_known(float(np.mean(half_widths))),
        significant=sum(p < statistics.ALPHA for p in p_values),
    )


def _format_difference(row: SamplingRow) -> str:
    return f"{format_points(row.mean)} ± {100 * row.half_width:.1f}"
