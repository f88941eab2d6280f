"""Records as rows to compare: means, intervals, differences from a baseline, groups that cannot be told apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.results import group_of, is_control
from maskbench.analysis.table_formats import UNFINISHED
from maskbench.record import EXTERNAL, RunRecord

METRICS = ("knn/top1/cls", "knn/top1/mean", "linear/top1/cls", "linear/top1/mean")
PRIMARY = METRICS[::-1]  # the first of these that there is decides order, differences and groups
COSTS = (
    "cost/images_per_s",
    "cost/mask_share",
    "cost/peak_memory_mib",
    "cost/gflops_per_image",
    "realised_ratio_mean",
)
LENGTHS = ("epochs", "cost/train_s", "cost/train_tflops")  # of the training, where a budget decides it
BASELINE = "random"
Spent = Mapping[tuple[str, str], tuple[int, float]]  # by group and row: combinations tried, seconds
LETTERED = 64  # rows at most, beyond which pairwise groups say nothing to a reader


def comparison(
    results: pd.DataFrame, baseline: str = BASELINE, trials: Sequence[RunRecord] = ()
) -> list[dict[str, Any]]:
    """A section for each group of runs that may be compared, in order of group.

    results: maskbench.analysis.results.frame. trials: by which settings were chosen. A section: {"group", "dataset",
    "machines", "metric" (which decides), "baseline" (None where the group has none), "budget" (whether one other than
    epochs decides the training's length), "rows", "notes" (what the numbers mean, in sentences)}. A row, over complete
    runs: {"label", "control", "n", "failed", "diverged", "missing" (seeds that others of the group have), for each
    metric {"mean", "sd", "low", "high"}, for each cost {"mean"}, "tuned", "trials", "cost/tuning_s", "difference" {"n",
    "mean", "low", "high", "p", "p_holm", "detectable"}, "letters", "best"}; what cannot be said is absent or None.
    random-init comes first, supervised last, the rest by the deciding metric; then encoders from elsewhere, in every
    group that was asked the same of the same data.
    """
    spent = _spent(trials)
    return [_section(str(group), runs, baseline, spent) for group, runs in groups(results)]


def groups(results: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each group and its runs, in order; encoders from elsewhere join those that were asked the same."""
    external = results["objective"] == EXTERNAL
    for group, runs in results[~external].groupby("group", sort=True):
        yield str(group), pd.concat([runs, results[external & results["asked"].isin(runs["asked"])]])
    alone = results[external & ~results["asked"].isin(results["asked"][~external])]
    for group, runs in alone.groupby("group", sort=True):
        yield str(group), runs


def _spent(trials: Sequence[RunRecord]) -> Spent:
    """What was tried for a group's row, and how long that took."""
    spent: dict[tuple[str, str], list[RunRecord]] = {}
    for trial in trials:
        spent.setdefault((group_of(trial), trial.config["tuning"]["row"]), []).append(trial)
    return {
        place: (
            len({str(run.config["tuning"]["settings"]) for run in runs}),
            sum(run.metrics["cost/wall_s"] for run in runs),
        )
        for place, runs in spent.items()
    }


def _section(group: str, members: pd.DataFrame, baseline: str, spent: Spent) -> dict[str, Any]:
    complete = members[members["status"] == "complete"]
    metric = next((name for name in PRIMARY if name in complete and complete[name].notna().any()), PRIMARY[0])
    seeds = set(members["seed"][members["objective"] != EXTERNAL])
    rows = [_row(str(label), runs, seeds, spent) for label, runs in members.groupby("label", sort=True)]
    scores = {str(label): _by_seed(runs, metric) for label, runs in complete.groupby("label")}
    scores = {label: of_seed for label, of_seed in scores.items() if of_seed and not is_control(label)}
    known = baseline if baseline in scores else None
    if known is not None:
        _add_differences(rows, scores, known)
    _add_letters(rows, scores)
    rows.sort(key=lambda row: rank(row["label"], row.get(metric)))
    section = {
        "group": group,
        "dataset": members["dataset"].iloc[0],
        "machines": sorted(set(members["machine"])),
        "metric": metric,
        "baseline": known,
        "budget": " of training" in group,
        "rows": rows,
    }
    return {**section, "notes": notes(section)}


def _by_seed(runs: pd.DataFrame, metric: str) -> dict[int, float]:
    if metric not in runs:
        return {}
    known = runs.dropna(subset=[metric])
    return {int(seed): float(value) for seed, value in zip(known["seed"], known[metric], strict=True)}


def _row(label: str, runs: pd.DataFrame, seeds: set[int], spent: Spent) -> dict[str, Any]:
    complete = runs[runs["status"] == "complete"]
    row: dict[str, Any] = {"label": label, "control": is_control(label), "n": len(complete)}
    row |= {status: int((runs["status"] == status).sum()) for status in UNFINISHED[:2]}
    row["missing"] = 0 if f"({EXTERNAL})" in label else len(seeds - set(runs["seed"]))
    for name in (*METRICS, *COSTS, *LENGTHS):
        values = complete[name].dropna().tolist() if name in complete else []
        if not values:
            continue
        row[name] = {"mean": stable(float(np.mean(values)))}
        if name in METRICS:
            found = statistics.mean_interval(values)
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
            row[name] |= {"sd": stable(sd), "low": stable(found.low), "high": stable(found.high)}
    if "tuned" in runs and runs["tuned"].notna().all():
        tried = [spent[place] for place in set(zip(runs["group"], runs["tuning_row"], strict=True)) if place in spent]
        row["tuned"] = "; ".join(sorted(set(runs["tuned"])))
        row["trials"] = max((count for count, _ in tried), default=int(runs["trials"].max()))
        row["cost/tuning_s"] = {"mean": stable(sum(seconds for _, seconds in tried))}
    return row


def _add_differences(rows: list[dict[str, Any]], scores: dict[str, dict[int, float]], baseline: str) -> None:
    """Of every strategy from the baseline; Holm-corrected over those that can be tested."""
    tested = []
    for row in rows:
        label = row["label"]
        if label == baseline or label not in scores:
            continue
        found = statistics.paired_difference(scores[label], scores[baseline])
        if found is not None:
            row["difference"] = {name: stable(value) for name, value in vars(found).items()}
            if found.p is not None:
                tested.append((row, found.p))
    adjusted = statistics.holm([p for _, p in tested])
    for (row, _), p in zip(tested, adjusted, strict=True):
        row["difference"]["p_holm"] = stable(p)


def _add_letters(rows: list[dict[str, Any]], scores: dict[str, dict[int, float]]) -> None:
    """The groups that cannot be told apart; best are all that the highest mean cannot be told apart from. Rows of too
    few seeds are left out."""
    enough = {label: of_seed for label, of_seed in scores.items() if len(of_seed) >= statistics.ENOUGH}
    found = statistics.letters(enough) if 2 <= len(enough) <= LETTERED else {}
    top = next(iter(found), None)
    for row in rows:
        if top is not None and row["label"] in found:
            apart = statistics.told_apart(found[row["label"]], found[top])
            row |= {"letters": found[row["label"]], "best": not apart}


def rank(label: str, answer: Mapping[str, Any] | None) -> tuple[int, float, str]:
    """The place of a row whose deciding metric has this mean: the untrained first, labels and encoders from elsewhere
    last."""
    first = {"random-init": 0, "supervised": 2}.get(label.split(" ")[0], 1)
    return 3 if f"({EXTERNAL})" in label else first, -1 * (answer or {"mean": -1.0})["mean"], label


def stable(value: float | None) -> float | None:
    """Seven digits: enough for any reader, and the same on every platform."""
    return None if value is None else float(f"{value:.7g}")


def notes(section: dict[str, Any]) -> list[str]:
    """What the numbers of a section mean, and what they cannot show."""
    rows = [row for row in section["rows"] if not row["control"] and row["n"]]
    seeds = max((row["n"] for row in section["rows"]), default=0)
    machines = ", ".join(section["machines"])
    said = [f"Top-1 accuracy in % on test, mean over n seeds; images/s end to end on {machines}."]
    if seeds == 1:
        said.append("One seed: no interval can be given and nothing tested; small differences mean nothing.")
    else:
        said.append("±: half of the 95 % t interval over seeds.")
    differences = [row["difference"] for row in rows if "difference" in row]
    detectable = [found["detectable"] for found in differences if found["detectable"] is not None]
    if detectable:
        middle = 100 * float(np.median(detectable))
        said.append(
            f"Δ: difference from {section['baseline']} in {heading(section['metric'])}, paired by seed, with its 95 % "
            f"interval; p: Holm-corrected over {len(detectable)} comparisons. Before that correction, a true "
            f"difference of {middle:.1f} points (the median) would be found with a chance of 80 %."
        )
    elif differences and seeds > 1:
        said.append(f"Fewer than {statistics.ENOUGH} seeds: nothing is tested.")
    if any("letters" in row for row in rows):
        said.append("Strategies that share a letter cannot be told apart; bold are the highest mean and those like it.")
    if any(f"({EXTERNAL})" in row["label"] for row in section["rows"]):
        said.append(f"{EXTERNAL.capitalize()}: encoders from elsewhere, of other sizes and trainings, asked the same.")
    tuned = [row for row in rows if "tuned" in row]
    if tuned:
        said.append(
            f"Tuned: {tuned[0]['trials']} combinations tried for each strategy, the best on validation with seeds of "
            f"their own; tuning s: what that took. Controls are not tuned."
        )
    elif differences:
        said.append("One learning rate for all, not tuned for each.")
    if section["budget"]:
        said.append("Whole epochs, as many as come nearest to the budget.")
    if section["dataset"] == "shapes":
        said.append("Generated data: a smoke test of the pipeline, not evidence about strategies.")
    return said


def heading(metric: str) -> str:
    """ "knn/top1/cls" -> "k-NN cls"."""
    probe, _, pooling = metric.partition("/top1/")
    return f"{probe.replace('knn', 'k-NN')} {pooling}"
