"""The main table: a row for each strategy, with means, intervals, differences from a baseline, and groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.comparison_section import (
    Accuracy,
    BaselineDifference,
    ComparisonRow,
    ComparisonSection,
    TuningEffort,
)
from maskbench.analysis.metrics import BASELINE, COSTS, LENGTHS, METRICS, PRIMARY, deciding_metric
from maskbench.analysis.results import group_of, is_control, split_groups
from maskbench.analysis.sections import round_known, round_stable
from maskbench.record import EXTERNAL, RunRecord

MAX_LETTERED = 64  # rows, beyond which pairwise groups say nothing to a reader
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

    The control random-init comes first, supervised last, strategies between them by the deciding metric; then encoders
    from elsewhere, in every group that evaluates with the same probes on the same data.

    Args:
        results: From `maskbench.analysis.results.to_frame`.
        baseline: The label that others are compared with; a group without it has no differences.
        trials: Records of the tuning trials by which settings were chosen.
    """
    tried = _group_trials(trials)
    return [_make_section(group, runs, baseline, tried) for group, runs in split_groups(results)]


def _group_trials(trials: Sequence[RunRecord]) -> TrialsByRow:
    tried: dict[tuple[str, str], Trials] = {}
    for run in trials:
        tuning = run.config["tuning"]
        own = tried.setdefault((group_of(run), tuning["row"]), Trials())
        own.settings.add(str(tuning["settings"]))
        own.seconds += run.metrics["cost/wall_s"]
    return tried


def _make_section(group: str, members: pd.DataFrame, baseline: str, tried: TrialsByRow) -> ComparisonSection:
    complete = members[members["status"] == "complete"]
    metric = deciding_metric(complete) or PRIMARY[0]
    seeds = set(members["seed"][members["objective"] != EXTERNAL])
    rows = [_make_row(str(label), runs, seeds, tried) for label, runs in members.groupby("label", sort=True)]
    scores = {str(label): _by_seed(runs, metric) for label, runs in complete.groupby("label")}
    scores = {label: by_seed for label, by_seed in scores.items() if by_seed and not is_control(label)}
    if baseline in scores:
        _add_differences(rows, scores, baseline)
    _add_letters(rows, scores)
    rows.sort(key=lambda row: sort_key(row.label, row.mean(metric)))
    return ComparisonSection(
        group=group,
        rows=rows,
        dataset=members["dataset"].iloc[0],
        machines=sorted(set(members["machine"])),
        metric=metric,
        baseline=baseline if baseline in scores else None,
        has_budget=" of training" in group,
    )


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


def _add_differences(rows: list[ComparisonRow], scores: Scores, baseline: str) -> None:
    """Of every strategy from the baseline; Holm-corrected over those that can be tested."""
    tested = []
    for row in rows:
        if row.label == baseline or row.label not in scores:
            continue
        exact = statistics.paired_difference(scores[row.label], scores[baseline])
        if exact is not None:
            row.difference = BaselineDifference.rounded(exact)
            if exact.p is not None:
                tested.append((row.difference, exact.p))
    adjusted = statistics.holm_adjust([p for _, p in tested])
    for (difference, _), p in zip(tested, adjusted, strict=True):
        difference.p_holm = round_known(p)


def _add_letters(rows: list[ComparisonRow], scores: Scores) -> None:
    """The compact letter display, and which rows are best: those that share a letter with the highest mean. Rows of too
    few seeds are left out."""
    enough = {label: by_seed for label, by_seed in scores.items() if len(by_seed) >= statistics.MIN_SEEDS}
    if not 2 <= len(enough) <= MAX_LETTERED:
        return
    letters = statistics.compact_letter_display(enough)
    top = next(iter(letters), None)
    for row in rows:
        if top is not None and row.label in letters:
            row.letters = letters[row.label]
            row.is_best = statistics.share_a_letter(row.letters, letters[top])


def sort_key(label: str, mean: float | None) -> tuple[int, float, str]:
    """Orders rows by the mean of the deciding metric: the untrained control first, the supervised one and encoders
    from elsewhere last."""
    place = {"random-init": 0, "supervised": 2}.get(label.split(" ")[0], 1)
    return 3 if f"({EXTERNAL})" in label else place, 1.0 if mean is None else -mean, label
