"""The rows, columns and notes of the comparison of strategies."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from maskbench.analysis.comparison_notes import comparison_notes
from maskbench.analysis.mean_differences import Difference
from maskbench.analysis.metrics import METRICS, UNTRAINED, heading
from maskbench.analysis.sections import Column, Row, Section, format_points, make_column
from maskbench.analysis.statistics import Estimate


@dataclass(frozen=True)
class Accuracy:
    """One metric over the complete runs of a row, in [0, 1].

    Attributes:
        mean: Over seeds.
        sd: Standard deviation over seeds; None for one.
        low: Lower end of the 95 % t interval of the mean; None for one seed.
        high: Its upper end.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RowDifference(Difference):
    """A row's accuracy minus that of another, in the deciding metric, with seven digits.

    Attributes:
        detectable: The true difference that these seeds find with a chance of 80 %, after the correction.
    """

    detectable: Estimate | None = None

    def to_json(self) -> dict[str, float | None]:
        """What was not tested is null."""
        fields = {"n": float(self.n), "n_other": float(self.n_other), "mean": self.mean}
        fields_tested = {"low": self.low, "high": self.high, "p": self.p}
        detectable = None if self.detectable is None else self.detectable.value
        return {**fields, **fields_tested, "detectable": detectable}


@dataclass(frozen=True)
class TuningEffort:
    """How a row's settings were chosen.

    Attributes:
        settings: The settings that validation chose.
        trials: Combinations of settings that were tried.
        seconds: Wall time of all trials together.
    """

    settings: str
    trials: int
    seconds: float


@dataclass(kw_only=True)
class ComparisonRow(Row):
    """A strategy or a control, over its complete runs.

    Attributes:
        n: Complete runs, one a seed.
        accuracies: By metric, those of METRICS that there are.
        costs: Means by name, those of COSTS and LENGTHS that there are.
        tuning: How its settings were chosen; None where they were not tuned.
        difference: From the baseline; None for the baseline, for controls, and without a baseline.
        from_untrained: From the control random-init; None for controls, and without that control.
        marks: Signs beside the name, which the notes explain.
    """

    n: int
    accuracies: dict[str, Accuracy]
    costs: dict[str, float]
    tuning: TuningEffort | None = None
    difference: RowDifference | None = None
    from_untrained: RowDifference | None = None
    marks: tuple[str, ...] = ()

    @property
    def has_survivors(self) -> bool:
        """Whether some runs failed or diverged: the others are no fair sample of what this row gives."""
        return any(self.unfinished.get(reason, 0) for reason in ("failed", "diverged"))

    @property
    def name(self) -> str:
        """The label, how many of its runs are not complete, and its marks."""
        return " ".join([super().name, *self.marks])

    def mean(self, metric: str) -> float | None:
        """Mean accuracy in this metric; None where no run has it."""
        return self.accuracies[metric].mean if metric in self.accuracies else None

    def to_json(self) -> dict[str, Any]:
        """What cannot be said is absent."""
        fields: dict[str, Any] = {"label": self.label, "control": self.is_control, "n": self.n, **self.unfinished}
        fields |= {name: asdict(accuracy) for name, accuracy in self.accuracies.items()}
        fields |= {name: {"mean": mean} for name, mean in self.costs.items()}
        if self.tuning is not None:
            fields |= {"tuned": self.tuning.settings, "trials": self.tuning.trials}
            fields |= {"cost/tuning_s": {"mean": self.tuning.seconds}}
        if self.difference is not None:
            fields["difference"] = self.difference.to_json()
        if self.from_untrained is not None:
            fields["from_untrained"] = self.from_untrained.to_json()
        return {**fields, "best": self.is_best} if not self.is_control else fields


@dataclass(kw_only=True)
class ComparisonSection(Section):
    """The comparison of one group.

    Attributes:
        dataset: Name of the data set.
        machines: GPU or CPU models of its runs.
        metric: The metric that decides order, differences and what is best.
        baseline: The row that others are compared with; None where the group has none.
        has_budget: A budget of time or computation decides the length of the training.
        correlation: How alike the accuracies of one seed are, in [-1, 1]; None where it is not known.
        reversals: Rows that are better or worse than the baseline, while the mean in another metric says the opposite:
            label -> those metrics.
    """

    rows: list[ComparisonRow]
    dataset: str
    machines: list[str]
    metric: str
    baseline: str | None
    has_budget: bool
    correlation: float | None = None
    reversals: dict[str, list[str]] = field(default_factory=dict)

    def details(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "machines": self.machines,
            "metric": self.metric,
            "baseline": self.baseline,
            "budget": self.has_budget,
        }

    def columns(self) -> list[Column]:
        rows = self.rows
        return [
            make_column("n", rows, lambda row: str(row.n)),
            *(make_column(heading(name), rows, _accuracy_of(name), decides=name == self.metric) for name in METRICS),
            make_column(f"Δ {self.baseline}", rows, lambda row: _format_difference(row.difference)),
            make_column("p", rows, lambda row: _format_p(row.difference)),
            make_column(f"Δ {UNTRAINED}", rows, lambda row: _format_difference(row.from_untrained)),
            _cost_column("images/s", rows, "cost/images_per_s", "{:.0f}"),
            _cost_column("mask share", rows, "cost/mask_share", "{:.1f} %", 100),
            _cost_column("MiB", rows, "cost/peak_memory_mib", "{:.0f}"),
            _cost_column("GFLOPs/image", rows, "cost/gflops_per_image", "{:.3f}"),
            _cost_column("realised ratio", rows, "realised_ratio_mean", "{:.3f}"),
            *(_length_columns(rows) if self.has_budget else []),
            make_column("tuned", rows, _tuned_settings, is_cost=True),
            make_column("tuning s", rows, _tuning_seconds, is_cost=True),
        ]

    @property
    def notes(self) -> list[str]:
        return comparison_notes(self)


def _tuned_settings(row: ComparisonRow) -> str | None:
    return None if row.tuning is None else row.tuning.settings


def _tuning_seconds(row: ComparisonRow) -> str | None:
    return None if row.tuning is None else f"{row.tuning.seconds:.0f}"


def _length_columns(rows: Sequence[ComparisonRow]) -> list[Column]:
    return [
        _cost_column("epochs", rows, "epochs", "{:.0f}"),
        _cost_column("train s", rows, "cost/train_s", "{:.0f}"),
        _cost_column("train TFLOPs", rows, "cost/train_tflops", "{:.1f}"),
    ]


def _cost_column(heading: str, rows: Sequence[ComparisonRow], name: str, form: str, scale: float = 1) -> Column:
    def cell(row: ComparisonRow) -> str | None:
        return form.format(scale * row.costs[name]) if name in row.costs else None

    return make_column(heading, rows, cell, is_cost=True)


def _accuracy_of(metric: str) -> Callable[[ComparisonRow], str | None]:
    def cell(row: ComparisonRow) -> str | None:
        accuracy = row.accuracies.get(metric)
        if accuracy is None:
            return None
        if accuracy.low is None or accuracy.high is None:
            return f"{100 * accuracy.mean:.1f}"
        return f"{100 * accuracy.mean:.1f} ± {100 * (accuracy.high - accuracy.low) / 2:.1f}"

    return cell


def _format_difference(difference: RowDifference | None) -> str | None:
    if difference is None:
        return None
    mean, low, high = format_points(difference.mean), difference.low, difference.high
    return mean if low is None or high is None else f"{mean} [{format_points(low)}, {format_points(high)}]"


def _format_p(difference: RowDifference | None) -> str | None:
    p = None if difference is None else difference.p
    return None if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
