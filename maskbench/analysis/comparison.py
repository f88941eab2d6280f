"""The main table: a row for each strategy, with means, intervals, and what may be claimed about it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.comparison_notes import NOT_ABOVE, OTHER_RATIO, OTHER_SEEDS, RATIO_TOLERANCE
from maskbench.analysis.comparison_section import (
    Accuracy,
    ComparisonRow,
    ComparisonSection,
    RowDifference,
    TuningEffort,
)
from maskbench.analysis.mean_differences import Difference, detectable_difference, seed_correlation
from maskbench.analysis.metrics import BASELINE, COSTS, LENGTHS, METRICS, PRIMARY, UNTRAINED, deciding_metric
from maskbench.analysis.results import group_of, is_control, ratio_of, split_groups, without_ratio
from maskbench.analysis.sections import round_estimate, round_known, round_stable
from maskbench.analysis.verdicts import judge
from maskbench.record import EXTERNAL, RunRecord

Scores = dict[str, dict[int, float]]  # label -> seed -> accuracy


@dataclass
class Trials:
    """The tuning trials of one row of one group.

    Attributes:
        settings: The combinations that were tried, as text.
        seconds: Wall time of all of them together.
    """

    settings: set[str] = field(default_factory=set)
    seconds: float = 0.0


TrialsByRow = Mapping[tuple[str, str], Trials]  # by group, and name of the row in the suite


def compare_strategies(
    results: pd.DataFrame, baseline: str = BASELINE, trials: Sequence[RunRecord] = ()
) -> list[ComparisonSection]:
    """A section for each group of runs that may be compared, in order of group.

    Where the baseline was run at several ratios, each ratio has a section of its own, with the baseline at that ratio.
    The control random-init comes first, supervised last, strategies between them by the deciding metric; then encoders
    from elsewhere, in every group that evaluates with the same probes on the same data.

    Args:
        results: From `maskbench.analysis.results.to_frame`.
        baseline: The label that others are compared with; a group without it has no differences.
        trials: Records of the tuning trials by which settings were chosen.
    """
    tried = _group_trials(trials)
    return [
        _make_section(group, ratio, runs, own_baseline, tried)
        for group, members in split_groups(results)
        for ratio, own_baseline, runs in _split_ratios(members, baseline)
    ]


def _split_ratios(members: pd.DataFrame, baseline: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Where the baseline was run at several ratios: each ratio ("ratio=0.5"), the baseline's label there, and the runs
    at that ratio with those that have none, such as controls. Else all runs."""
    labels = members["label"].astype(str)
    ratios = {ratio_of(label): label for label in sorted(set(labels)) if without_ratio(label) == baseline}
    if len(ratios) < 2:
        yield "", baseline, members
        return
    for ratio in sorted({ratio_of(label) for label in labels} - {""}):
        yield (
            ratio,
            ratios.get(ratio, baseline),
            members[labels.map(lambda label, own=ratio: ratio_of(label) in ("", own))],
        )


def _group_trials(trials: Sequence[RunRecord]) -> TrialsByRow:
    tried: dict[tuple[str, str], Trials] = {}
    for run in trials:
        tuning = run.config["tuning"]
        own = tried.setdefault((group_of(run), tuning["row"]), Trials())
        own.settings.add(str(tuning["settings"]))
        own.seconds += run.metrics["cost/wall_s"]
    return tried


def _make_section(
    group: str, ratio: str, members: pd.DataFrame, baseline: str, tried: TrialsByRow
) -> ComparisonSection:
    complete = members[members["status"] == "complete"]
    metric = deciding_metric(complete) or PRIMARY[0]
    seeds = set(members["seed"][members["objective"] != EXTERNAL])
    rows = [_make_row(str(label), runs, seeds, tried) for label, runs in members.groupby("label", sort=True)]
    scores = {str(label): _by_seed(runs, metric) for label, runs in complete.groupby("label")}
    floors = [own for label, own in scores.items() if label.split(" ")[0] == UNTRAINED and own]
    scores = {label: by_seed for label, by_seed in scores.items() if by_seed and not is_control(label)}
    rows.sort(key=lambda row: sort_key(row.label, row.mean(metric)))
    section = ComparisonSection(
        group=group,
        about=ratio,
        rows=rows,
        dataset=members["dataset"].iloc[0],
        machines=sorted(set(members["machine"])),
        metric=metric,
        baseline=baseline if baseline in scores else None,
        has_budget=" of training" in group,
    )
    _add_verdicts(section, scores, floors[0] if len(floors) == 1 else None)
    return section


def _by_seed(runs: pd.DataFrame, metric: str) -> dict[int, float]:
    if metric not in runs:
        return {}
    known = runs.dropna(subset=[metric])
    return {int(seed): float(value) for seed, value in zip(known["seed"], known[metric], strict=True)}


def _make_row(label: str, runs: pd.DataFrame, seeds: set[int], tried: TrialsByRow) -> ComparisonRow:
    complete = runs[runs["status"] == "complete"]
    values = {name: complete[name].dropna().tolist() for name in (*METRICS, *COSTS, *LENGTHS) if name in complete}
    unfinished = {status: int((runs["status"] == status).sum()) for status in ("failed", "diverged")}
    missing = 0 if f"({EXTERNAL})" in label else len(seeds - set(runs["seed"]))
    return ComparisonRow(
        label=label,
        is_control=is_control(label),
        n=len(complete),
        unfinished={**unfinished, "missing": missing},
        accuracies={name: _accuracy(own) for name, own in values.items() if name in METRICS and own},
        costs={name: round_known(float(np.mean(own))) for name, own in values.items() if name not in METRICS and own},
        tuning=_tuning_effort(runs, tried),
    )


def _accuracy(values: list[float]) -> Accuracy:
    estimate = statistics.mean_interval(values)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    bounds = round_stable(estimate.low), round_stable(estimate.high)
    return Accuracy(round_known(estimate.value), round_stable(sd), *bounds)


def _tuning_effort(runs: pd.DataFrame, tried: TrialsByRow) -> TuningEffort | None:
    """None where a run of the row was not tuned."""
    if "tuned" not in runs or not runs["tuned"].notna().all():
        return None
    places = set(zip(runs["group"], runs["tuning_row"], strict=True))
    own = [tried[place] for place in places if place in tried]
    return TuningEffort(
        settings="; ".join(sorted(set(runs["tuned"]))),
        trials=max((len(each.settings) for each in own), default=int(runs["trials"].max())),
        seconds=round_known(sum(each.seconds for each in own)),
    )


def _add_verdicts(section: ComparisonSection, scores: Scores, floor: Mapping[int, float] | None) -> None:
    """What may be claimed about each row, and the marks beside the names."""
    survivors = {row.label for row in section.rows if row.has_survivors}
    verdicts = judge(scores, section.baseline, floor, survivors)
    section.correlation = round_stable(seed_correlation([scores[label] for label in sorted(verdicts.tested)]))
    for row in section.rows:
        verdict = verdicts.by_label.get(row.label)
        if verdict is not None:
            row.is_best = verdict.is_best
            row.difference = _round(verdict.from_baseline, verdicts.comparisons, section.correlation)
            row.from_untrained = _round(verdict.from_untrained, len(verdicts.tested), section.correlation)
    ratios = {row.label: row.costs.get("realised_ratio_mean") for row in section.rows}
    usual = _usual_seeds(scores)
    for row in section.rows:
        own = scores.get(row.label)
        marks = {
            NOT_ABOVE: (below := row.from_untrained) is not None and below.p is not None and not below.is_better,
            OTHER_SEEDS: own is not None and own.keys() != usual,
            OTHER_RATIO: row.difference is not None and _differ(ratios[row.label], ratios[section.baseline or ""]),
        }
        row.marks = tuple(mark for mark, holds in marks.items() if holds)
    section.reversals = _reversals(section)


def _round(difference: Difference | None, comparisons: int, correlation: float | None) -> RowDifference | None:
    if difference is None:
        return None
    detectable = detectable_difference(difference, comparisons, correlation or 0.0)
    bounds = (round_stable(difference.low), round_stable(difference.high), round_stable(difference.p))
    known = None if detectable is None else round_estimate(detectable)
    return RowDifference(difference.n, difference.n_other, round_known(difference.mean), *bounds, detectable=known)


def _usual_seeds(scores: Scores) -> Set[int]:
    """The seeds that most strategies have; of equally many the larger set."""
    counts = Counter(frozenset(by_seed) for by_seed in scores.values())
    return max(counts, key=lambda seeds: (counts[seeds], len(seeds), sorted(seeds)), default=frozenset())


def _differ(ratio: float | None, other: float | None) -> bool:
    return ratio is not None and other is not None and abs(ratio - other) > RATIO_TOLERANCE


def _reversals(section: ComparisonSection) -> dict[str, list[str]]:
    """Rows that differ from the baseline, while the mean in another metric says the opposite."""
    by_label = {row.label: row for row in section.rows}
    base = by_label.get(section.baseline or "")
    reversals = {}
    for label, row in by_label.items():
        if base is None or row.difference is None or not (row.difference.is_better or row.difference.is_worse):
            continue
        gaps = {name: row.accuracies[name].mean - base.accuracies[name].mean
                for name in METRICS if name in row.accuracies and name in base.accuracies}  # fmt: skip
        opposite = [name for name, gap in gaps.items() if gap * row.difference.mean < 0]
        if opposite:
            reversals[label] = opposite
    return reversals


def sort_key(label: str, mean: float | None) -> tuple[int, float, str]:
    """Orders rows by the mean of the deciding metric: the untrained control first, the supervised one and encoders
    from elsewhere last."""
    place = {"random-init": 0, "supervised": 2}.get(label.split(" ")[0], 1)
    return 3 if f"({EXTERNAL})" in label else place, 1.0 if mean is None else -mean, label
