"""A verdict on each claim of a suite: what a paper says of two rows, and what was found here.

All claims that a group of runs can decide are one family of comparisons: interval, p value and verdict of a claim
follow from the same test (`maskbench.analysis.mean_differences`).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskbench.analysis.epochs_to_baseline import first_reaching, has_readings, last_accuracy
from maskbench.analysis.mean_differences import BySeed, Difference, compare_means, has_enough_seeds
from maskbench.analysis.metrics import METRICS, UNTRAINED, deciding_metric, heading
from maskbench.analysis.results import Results, split_groups
from maskbench.analysis.sections import (
    MINUS,
    Column,
    Row,
    Section,
    format_points,
    make_column,
    round_known,
    round_stable,
)
from maskbench.analysis.statistics import MIN_SEEDS
from maskbench.config.claims import EPOCHS_TO_ACCURACY, Claim, read_claims
from maskbench.errors import UsageError
from maskbench.record import RunRecord
from maskbench.runtime.escaping import print_message


@dataclass(frozen=True)
class Question:
    """What decides a claim: the values of its two rows, or why there is nothing to decide by."""

    better: BySeed
    than: BySeed
    obstacle: str = ""


@dataclass(kw_only=True)
class ClaimRow(Row):
    """A claim; its label is what the paper says.

    Attributes:
        claim: The claim.
        metric: What decides it.
        obstacle: Why it cannot be decided; empty where it was tested.
        difference: The better row minus the other: a share of the test images, or epochs.
        costs: GFLOPs per image of the better row and of the other, where both are known.
    """

    claim: Claim
    metric: str
    obstacle: str
    difference: Difference | None
    costs: tuple[float, float] | None

    @property
    def in_epochs(self) -> bool:
        """The difference is one of epochs, and fewer are better."""
        return self.metric == EPOCHS_TO_ACCURACY

    @property
    def verdict(self) -> str:
        """In fixed words: holds here, reversed here, no difference larger than x, not testable here, because."""
        found = self.difference
        if self.obstacle or found is None or found.low is None or found.high is None:
            return f"not testable here, because {self.obstacle}"
        if found.is_worse if self.in_epochs else found.is_better:
            return "holds here"
        if found.is_better or found.is_worse:
            return "reversed here"
        return f"no difference larger than {self._format_size(max(-found.low, found.high))}"

    def _format_size(self, size: float) -> str:
        return f"{size:.1f} epochs" if self.in_epochs else f"{100 * size:.1f} points"

    def format_difference(self) -> str | None:
        """ "+1.2 [+0.3, +2.1]", in points or in epochs."""
        if self.difference is None:
            return None
        form = _format_epochs if self.in_epochs else format_points
        ends = [form(end) for end in (self.difference.low, self.difference.high) if end is not None]
        return form(self.difference.mean) + (f" [{', '.join(ends)}]" if ends else "")

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"label": self.label, "verdict": self.verdict, **self.claim.model_dump()}
        fields["metric"] = self.metric
        if self.difference is not None:
            names = ("n", "n_other", "mean", "low", "high", "p")
            fields["difference"] = {name: getattr(self.difference, name) for name in names}
        if self.costs is not None:
            fields |= {"gflops_per_image": self.costs[0], "gflops_per_image_other": self.costs[1]}
        return fields


@dataclass(kw_only=True)
class ClaimSection(Section):
    """The claims that the runs of one group can decide."""

    rows: list[ClaimRow]
    about: str = "Claims"
    row_heading: str = "claim"
    comparisons: int

    def details(self) -> dict[str, Any]:
        return {"comparisons": self.comparisons}

    def columns(self) -> list[Column]:
        rows = self.rows
        return [
            make_column("source", rows, lambda row: row.claim.source),
            make_column("compared", rows, lambda row: f"{row.claim.better} − {row.claim.than}"),
            make_column("by", rows, lambda row: heading(row.metric) if row.metric in METRICS else row.metric),
            make_column("n", rows, _format_seeds),
            make_column("difference", rows, lambda row: row.format_difference()),
            make_column("verdict", rows, lambda row: row.verdict),
            make_column("GFLOPs/image", rows, _format_costs, is_cost=True),
        ]

    @property
    def notes(self) -> list[str]:
        epochs = any(row.in_epochs for row in self.rows)
        return [
            f"Differences of means over n seeds, in points of accuracy on test{' or in epochs' * epochs}, with "
            f"intervals that hold together with 95 % (Bonferroni, {self.comparisons} claims tested).",
            f"A claim about accuracy is decided only where one of its rows is shown to be above {UNTRAINED}.",
            *(
                [
                    f"{EPOCHS_TO_ACCURACY}: the epoch of the first of two online k-NN readings in a row that are at "
                    f"least what the lower of the two rows reads at its end; the last epoch where none is."
                ]
                if epochs
                else []
            ),
            "Small images and a short training: a verdict says nothing about large ones.",
        ]


def _format_seeds(row: ClaimRow) -> str | None:
    found = row.difference
    if found is None:
        return None
    return str(found.n) if found.n == found.n_other else f"{found.n}, {found.n_other}"


def _format_costs(row: ClaimRow) -> str | None:
    return None if row.costs is None else "{:.3f} against {:.3f}".format(*row.costs)


def _format_epochs(epochs: float) -> str:
    return f"{epochs:+.1f}".replace("-", MINUS)


def make_sections(results: Results) -> list[ClaimSection]:
    """A section for each group of runs in which some claim has both its rows; claims that no group can decide are in
    the first group. Empty where the folder has no claims, or none that can be read, with a line on stderr."""
    try:
        claims = read_claims(results.folder)
    except UsageError as error:
        print_message(f"claims left out: {error}")
        return []
    if not claims or not results.records:
        return []
    groups = [_Group(str(group), members, results) for group, members in split_groups(results.frame)]
    at_home = [{claim.says for claim in claims if group.has(claim)} for group in groups]
    homeless = [claim for claim in claims if not any(claim.says in home for home in at_home)]
    sections = []
    for place, (group, home) in enumerate(zip(groups, at_home, strict=True)):
        own = [claim for claim in claims if claim.says in home or (place == 0 and claim in homeless)]
        if own:
            sections.append(group.judge(own))
    return sections


class _Group:
    """Runs that may be compared, and the claims about them."""

    def __init__(self, name: str, members: pd.DataFrame, results: Results) -> None:
        by_id = {record.run_id: record for record in results.records}
        self.name, self.members = name, members
        self.complete = members[members["status"] == "complete"]
        self.records: dict[str, list[RunRecord]] = {
            str(label): [by_id[run_id] for run_id in runs["run_id"]] for label, runs in self.complete.groupby("label")
        }

    def has(self, claim: Claim) -> bool:
        labels = set(self.members["label"])
        return claim.better in labels and claim.than in labels

    def judge(self, claims: Sequence[Claim]) -> ClaimSection:
        metrics = [claim.metric or deciding_metric(self.complete) or METRICS[-1] for claim in claims]
        questions = [self._ask(claim, metric) for claim, metric in zip(claims, metrics, strict=True)]
        comparisons = sum(not question.obstacle for question in questions)
        rows = []
        for claim, metric, question in zip(claims, metrics, questions, strict=True):
            found = None if question.obstacle else compare_means(question.better, question.than, comparisons)
            rows.append(
                ClaimRow(
                    label=claim.says,
                    claim=claim,
                    metric=metric,
                    obstacle=question.obstacle,
                    difference=found and _round(found),
                    costs=self._costs(claim),
                )
            )
        return ClaimSection(group=self.name, rows=rows, comparisons=comparisons)

    def _ask(self, claim: Claim, metric: str) -> Question:
        """The values that decide a claim. Whether its rows learned anything is asked once of each, at 5 % for both."""
        for label in (claim.better, claim.than):
            obstacle = self._missing(label)
            if obstacle:
                return Question({}, {}, obstacle)
        if metric == EPOCHS_TO_ACCURACY:
            return self._ask_epochs(claim)
        ours, theirs = self._values(claim.better, metric), self._values(claim.than, metric)
        for label, values in ((claim.better, ours), (claim.than, theirs)):
            if not has_enough_seeds(len(values), 2):
                return Question({}, {}, _too_few(label, len(values), metric))
        floor = self._values(UNTRAINED, metric) if UNTRAINED in self.records else {}
        asks_more = UNTRAINED not in (claim.better, claim.than)  # than whether one row is above it
        is_above = [len(floor) < 2 or compare_means(values, floor, 2).is_better for values in (ours, theirs)]
        if asks_more and not any(is_above):
            return Question({}, {}, f"neither row is shown to be above {UNTRAINED}")
        return Question(ours, theirs)

    def _missing(self, label: str) -> str:
        """Why a row cannot be tested; empty where it can."""
        runs = self.members[self.members["label"] == label]
        if runs.empty:
            return f"there is no row {label}"
        unfinished = int((runs["status"] != "complete").sum())
        return f"{unfinished} of {len(runs)} runs of {label} failed or diverged" if unfinished else ""

    def _values(self, label: str, metric: str) -> BySeed:
        return {run.seed: run.metrics[metric] for run in self.records[label] if metric in run.metrics}

    def _ask_epochs(self, claim: Claim) -> Question:
        ours, theirs = self.records[claim.better], self.records[claim.than]
        if not all(has_readings(run) for run in (*ours, *theirs)):
            return Question({}, {}, "some run has no online readings")
        if not has_enough_seeds(min(len(ours), len(theirs)), 2):
            label, least = min((claim.better, len(ours)), (claim.than, len(theirs)), key=lambda row: row[1])
            return Question({}, {}, _too_few(label, least, "online readings"))
        return Question(*epochs_to_accuracy(ours, theirs))

    def _costs(self, claim: Claim) -> tuple[float, float] | None:
        name = "cost/gflops_per_image"
        both = [
            [run.metrics[name] for run in self.records.get(label, []) if name in run.metrics]
            for label in (claim.better, claim.than)
        ]
        first, second = both
        return (round_known(statistics.mean(first)), round_known(statistics.mean(second))) if all(both) else None


def _too_few(label: str, seeds: int, metric: str) -> str:
    if not seeds:
        return f"no run of {label} has {metric}"
    return f"{label} has {seeds} seed{'s' * (seeds > 1)}, and {MIN_SEEDS} are needed"


def epochs_to_accuracy(ours: Sequence[RunRecord], theirs: Sequence[RunRecord]) -> tuple[BySeed, BySeed]:
    """How many epochs each run took to the accuracy at which the lower of the two rows ends, by seed. The target treats
    both rows alike, so that two strategies that are the same look sooner equally often."""
    target = min(statistics.mean(map(last_accuracy, runs)) for runs in (ours, theirs))
    better, than = ({run.seed: _epochs_to(run, target) for run in runs} for runs in (ours, theirs))
    return better, than


def _epochs_to(run: RunRecord, target: float) -> float:
    row = first_reaching(run, target)
    return float(run.curve[-1]["epoch"] if row is None else row["epoch"])


def _round(found: Difference) -> Difference:
    bounds = (round_stable(found.low), round_stable(found.high), round_stable(found.p))
    return Difference(found.n, found.n_other, round_known(found.mean), *bounds)
