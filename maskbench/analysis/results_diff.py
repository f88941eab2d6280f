"""Two sets of results against each other: what changed, and whether by more than noise."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from maskbench.analysis import statistics
from maskbench.analysis.mean_differences import BySeed, compare_means
from maskbench.analysis.metrics import METRICS, heading
from maskbench.analysis.results import load_results
from maskbench.config.plain_files import read_regular_file
from maskbench.errors import UsageError
from maskbench.record import ensure_records

MAX_PAPER = 2**20  # bytes of a paper's CSV
FIELDS = ("data", "model", "length of training", "probe protocols")  # the parts of a group, in their order


@dataclass(kw_only=True)
class Change:
    """One strategy in one metric, before and after. Accuracies are shares in [0, 1].

    Attributes:
        group: What the runs share; empty for a strategy that only a paper has.
        strategy: Its label.
        metric: One of METRICS; None where only one side has the strategy.
        n: Seeds that both sides have, or our runs beside a paper's number; 0 where only one side has the strategy.
        before: Mean accuracy of the first side.
        after: Mean accuracy of the second side.
        low: Lower end of the 95 % interval of after - before; None where there are too few seeds.
        high: Upper end.
        verdict: What can be said, in words.
    """

    group: str
    strategy: str
    metric: str | None = None
    n: int = 0
    before: float | None = None
    after: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


def compare_results(before: Path, after: Path) -> list[Change]:
    """Compare two result folders, or a paper's CSV and a folder.

    Folders are matched by group (data, model, budget, protocols), strategy and seed. The seeds of both are paired, and
    intervals and p values corrected over all changes (Bonferroni). A paper's numbers have no seeds to pair, so each is
    compared with the interval of our mean.

    Args:
        before: A results folder, or a CSV as `read_paper` describes it.
        after: A results folder.

    Returns:
        A change for each strategy and metric; one without a metric for a strategy that only one side has.

    Raises:
        UsageError: A folder has no record, or the two have nothing in common.
    """
    is_paper = before.suffix == ".csv"
    for folder in [after] if is_paper else [before, after]:
        ensure_records(folder)
    theirs = read_paper(before) if is_paper else load_results(before)
    ours = _complete(load_results(after))
    changes = _compare_with_paper(theirs, ours) if is_paper else _compare_folders(_complete(theirs), ours)
    if not any(change.n for change in changes):
        raise UsageError(f"{before} and {after} have nothing in common to compare: {_what_differs(theirs, ours)}")
    return changes


def _what_differs(theirs: pd.DataFrame, ours: pd.DataFrame) -> str:
    """Why no run of one side has a counterpart on the other."""
    for name, side in (("first", theirs), ("second", ours)):
        if not len(side):
            return f"no run of the {name} is complete"
    strategies = "label" if "label" in theirs else "strategy"  # the latter in a paper's table
    common = set(theirs[strategies]) & set(ours["label"])
    if not common:
        sides = (", ".join(sorted(set(names))) for names in (theirs[strategies], ours["label"]))
        return "no strategy is in both; the first has {}, the second has {}".format(*sides)
    if "group" not in theirs:
        return f"no metric is in both for {', '.join(sorted(common))}"
    first, second = (side[side["label"].isin(common)] for side in (theirs, ours))
    pairs = [(one.split(" | "), other.split(" | ")) for one in set(first["group"]) for other in set(second["group"])]
    differing = [_differing_fields(*pair) for pair in pairs]
    nearest = min(differing, key=lambda fields: (len(fields), fields))  # of the two groups that share most
    if nearest:
        return f"they differ in {'; '.join(nearest)}"
    seeds = (", ".join(map(str, sorted(set(side["seed"])))) for side in (first, second))
    return "no seed is in both; the first has {}, the second has {}".format(*seeds)


def _differing_fields(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The parts of two groups that are not the same, with both values."""
    names = FIELDS if len(first) == len(second) == len(FIELDS) else [""] * max(len(first), len(second))
    parts = zip_longest(names, first, second, fillvalue="–")
    return [f"{name} ({one}, against {other})".strip() for name, one, other in parts if one != other]


def _complete(results: pd.DataFrame) -> pd.DataFrame:
    return results[results["status"] == "complete"] if len(results) else results


def read_paper(path: Path) -> pd.DataFrame:
    """Read a CSV with a column `strategy` and one or more of METRICS, as shares or in %. UsageError without them."""
    try:
        table = pd.read_csv(io.BytesIO(read_regular_file(path, MAX_PAPER)))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    metrics = [name for name in METRICS if name in table]
    if "strategy" not in table or not metrics:
        raise UsageError(
            f"{path} needs a column strategy and one of {', '.join(METRICS)}; it has {', '.join(map(str, table))}"
        )
    for name in metrics:
        values = pd.to_numeric(table[name], errors="coerce")
        if values.isna().sum() > table[name].isna().sum():
            raise UsageError(f"{path}: column {name} has values that are not numbers")
        table[name] = values / 100 if values.max() > 1 else values
    return table


def _compare_with_paper(theirs: pd.DataFrame, ours: pd.DataFrame) -> list[Change]:
    changes = []
    for _, line in theirs.iterrows():
        runs_of_strategy = ours[ours["label"] == line["strategy"]]
        if not len(runs_of_strategy):
            changes.append(Change(group="", strategy=line["strategy"], verdict="only in the paper"))
        for group, runs in runs_of_strategy.groupby("group", sort=True):
            for metric in METRICS:
                if metric in line and pd.notna(line[metric]) and metric in runs:
                    changes.append(_compare_with_number(str(group), line["strategy"], metric, line[metric], runs))
    return changes


def _compare_with_number(group: str, strategy: str, metric: str, number: float, runs: pd.DataFrame) -> Change:
    """Whether a paper's number lies in the interval of our mean."""
    mean = statistics.mean_interval(runs[metric].dropna().tolist())
    change = Change(
        group=group, strategy=strategy, metric=metric, n=len(runs), before=number, after=mean.value,
        verdict="one run: cannot be judged",
    )  # fmt: skip
    if mean.low is not None and mean.high is not None:
        change.low, change.high = mean.low - number, mean.high - number
        change.verdict = "within our interval" if change.low <= 0 <= change.high else "outside our interval"
    return change


def _compare_folders(before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
    sides = [_by_label(side) for side in (before, after)]
    changes: list[Change] = []
    tested: list[tuple[Change, BySeed, BySeed]] = []
    for group, label in sorted(sides[0].keys() | sides[1].keys()):
        old, new = (side.get((group, label)) for side in sides)
        if old is None or new is None:
            only = f"only in the {'second' if old is None else 'first'}"
            changes.append(Change(group=group, strategy=label, verdict=only))
            continue
        for metric in METRICS:
            first, second = _common_seeds(old, new, metric)
            if first:
                changes.append(_describe_change(group, label, metric, first, second))
                if first != second and len(first) >= statistics.MIN_SEEDS:
                    tested.append((changes[-1], first, second))
    for change, first, second in tested:
        difference = compare_means(second, first, len(tested), paired=True)
        change.low, change.high, p = difference.low, difference.high, difference.p
        said = "changed" if difference.is_better or difference.is_worse else "not beyond noise"
        change.verdict = f"{said} (p = {p:.2g})"
    return changes


def _common_seeds(old: pd.DataFrame, new: pd.DataFrame, metric: str) -> tuple[BySeed, BySeed]:
    """The accuracies of both sides for the seeds that both have; empty where one has not measured it."""
    if metric not in old or metric not in new:
        return {}, {}
    first, second = (_by_seed(side.dropna(subset=[metric]), metric) for side in (old, new))
    common = sorted(first.keys() & second.keys())
    return {seed: first[seed] for seed in common}, {seed: second[seed] for seed in common}


def _describe_change(group: str, label: str, metric: str, first: BySeed, second: BySeed) -> Change:
    same = first == second
    few = f"differs; {len(first)} seeds in common are too few to judge"
    before, after = (sum(side.values()) / len(side) for side in (first, second))
    verdict = "the same to the last digit" if same else few
    return Change(group=group, strategy=label, metric=metric, n=len(first), before=before, after=after, verdict=verdict)


def _by_seed(runs: pd.DataFrame, metric: str) -> dict[int, float]:
    return {int(seed): float(value) for seed, value in zip(runs["seed"], runs[metric], strict=True)}


def _by_label(results: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    return {
        (str(runs["group"].iloc[0]), str(runs["label"].iloc[0])): runs
        for _, runs in results.groupby(["group", "label"])
    }


def as_markdown(changes: Sequence[Change]) -> str:
    """A table for each group, accuracies in %."""
    headers = ["strategy", "metric", "n", "first", "second", "change, 95 % interval", "verdict"]
    parts = []
    for group in dict.fromkeys(change.group for change in changes):
        body = [_cells(change) for change in changes if change.group == group]
        table = tabulate(body, headers, tablefmt="pipe", disable_numparse=True)
        parts.append(f"**{group.replace(' | ', '; ')}**\n\n{table}\n" if group else f"{table}\n")
    return "\n".join(parts)


def _cells(change: Change) -> list[str]:
    return [
        change.strategy,
        heading(change.metric) if change.metric else "–",
        str(change.n),
        _percent(change.before),
        _percent(change.after),
        _format_change(change),
        change.verdict,
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _format_change(change: Change) -> str:
    if change.before is None or change.after is None:
        return "–"
    difference = f"{100 * (change.after - change.before):+.2f}"
    if change.low is None or change.high is None:
        return difference
    return f"{difference} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
