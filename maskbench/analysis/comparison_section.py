"""The rows, columns and notes of the comparison of strategies."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from maskbench.analysis import statistics
from maskbench.analysis.metrics import METRICS, heading
from maskbench.analysis.sections import Column, Row, Section, format_points, make_column, round_known, round_stable
from maskbench.record import EXTERNAL


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


@dataclass
class BaselineDifference:
    """A row's accuracy minus the baseline's, paired by seed, in the deciding metric.

    Attributes:
        n: Seeds that both have.
        mean: Mean difference, in [-1, 1].
        low: Lower end of its 95 % paired t interval; None below three seeds.
        high: Its upper end.
        p: Two-sided p value of the paired t test; None below three seeds.
        minimum_detectable: The true difference that these seeds would detect with a power of 80 %.
        p_holm: `p` after Holm's correction over the rows of the section; None where it was not tested.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    minimum_detectable: float | None
    p_holm: float | None = None

    @classmethod
    def rounded(cls, difference: statistics.Difference) -> "BaselineDifference":
        """With seven digits."""
        optional = (difference.low, difference.high, difference.p, difference.minimum_detectable)
        return cls(difference.n, round_known(difference.mean), *map(round_stable, optional))

    def to_json(self) -> dict[str, float | None]:
        """`p_holm` only where it was tested."""
        fields = {"n": float(self.n), "mean": self.mean, "low": self.low, "high": self.high, "p": self.p}
        corrected = {} if self.p_holm is None else {"p_holm": self.p_holm}
        return {**fields, "detectable": self.minimum_detectable, **corrected}


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
        difference: From the baseline; None for the baseline, for controls, and without a common seed.
        letters: Compact letter display: rows that share a letter do not differ significantly. None where not tested.
    """

    n: int
    accuracies: dict[str, Accuracy]
    costs: dict[str, float]
    tuning: TuningEffort | None = None
    difference: BaselineDifference | None = None
    letters: str | None = None

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
        return fields if self.letters is None else {**fields, "letters": self.letters, "best": self.is_best}


@dataclass(kw_only=True)
class ComparisonSection(Section):
    """The comparison of one group.

    Attributes:
        dataset: Name of the data set.
        machines: GPU or CPU models of its runs.
        metric: The metric that decides order, differences and letters.
        baseline: The row that others are compared with; None where the group has none.
        has_budget: A budget of time or computation decides the length of the training.
    """

    rows: list[ComparisonRow]
    dataset: str
    machines: list[str]
    metric: str
    baseline: str | None
    has_budget: bool

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
            make_column(f"Δ {self.baseline}", rows, _format_difference),
            make_column("p", rows, _format_p),
            make_column("group", rows, lambda row: row.letters),
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
        strategies = [row for row in self.rows if not row.is_control and row.n]
        notes = [*self._seed_notes(), *self._difference_notes(strategies)]
        if any(row.letters is not None for row in strategies):
            notes.append(
                "Strategies that share a letter cannot be told apart; bold are the highest mean and those like it."
            )
        if any(f"({EXTERNAL})" in row.label for row in self.rows):
            name = EXTERNAL.capitalize()
            notes.append(f"{name}: encoders from elsewhere, of other sizes and trainings, asked the same.")
        notes += _tuning_notes(strategies)
        if self.has_budget:
            notes.append("Whole epochs, as many as come nearest to the budget.")
        if self.dataset == "shapes":
            notes.append("Generated data: a smoke test of the pipeline, not evidence about strategies.")
        return notes

    @property
    def _most_seeds(self) -> int:
        return max((row.n for row in self.rows), default=0)

    def _seed_notes(self) -> list[str]:
        machines = ", ".join(self.machines)
        notes = [f"Top-1 accuracy in % on test, mean over n seeds; images/s end to end on {machines}."]
        if self._most_seeds == 1:
            return [*notes, "One seed: no interval can be given and nothing tested; small differences mean nothing."]
        return [*notes, "±: half of the 95 % t interval over seeds."]

    def _difference_notes(self, strategies: Sequence[ComparisonRow]) -> list[str]:
        differences = [row.difference for row in strategies if row.difference is not None]
        effects = [each.minimum_detectable for each in differences if each.minimum_detectable is not None]
        if effects:
            median = 100 * float(np.median(effects))
            return [
                f"Δ: difference from {self.baseline} in {heading(self.metric)}, paired by seed, with its 95 % "
                f"interval; p: Holm-corrected over {len(effects)} comparisons. Before that correction, a true "
                f"difference of {median:.1f} points (the median) would be found with a chance of 80 %."
            ]
        if differences and self._most_seeds > 1:
            return [f"Fewer than {statistics.MIN_SEEDS} seeds: nothing is tested."]
        return []


def _tuning_notes(strategies: Sequence[ComparisonRow]) -> list[str]:
    trials = [row.tuning.trials for row in strategies if row.tuning is not None]
    if trials:
        return [
            f"Tuned: {trials[0]} combinations tried for each strategy, the best on validation with seeds of "
            f"their own; tuning s: what that took. Controls are not tuned."
        ]
    has_difference = any(row.difference is not None for row in strategies)
    return ["One learning rate for all, not tuned for each."] if has_difference else []


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


def _format_difference(row: ComparisonRow) -> str | None:
    difference = row.difference
    if difference is None:
        return None
    mean, low, high = format_points(difference.mean), difference.low, difference.high
    return mean if low is None or high is None else f"{mean} [{format_points(low)}, {format_points(high)}]"


def _format_p(row: ComparisonRow) -> str | None:
    p = None if row.difference is None else row.difference.p_holm
    return None if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
