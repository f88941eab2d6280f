"""The sentences below a comparison: what its numbers mean, what its marks say, and what it cannot show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maskbench.analysis.mean_differences import MOST_AT_MIN_SEEDS, PAIRED_FROM
from maskbench.analysis.metrics import UNTRAINED, heading
from maskbench.analysis.sections import MINUS
from maskbench.analysis.statistics import MIN_SEEDS, Estimate
from maskbench.record import EXTERNAL

if TYPE_CHECKING:
    from maskbench.analysis.comparison_section import ComparisonRow, ComparisonSection, RowDifference

NOT_ABOVE, OTHER_SEEDS, OTHER_RATIO = "†", "‡", "§"
RATIO_TOLERANCE = 0.05  # of realised ratios, beyond which a difference is also one of the ratio


def comparison_notes(section: "ComparisonSection") -> list[str]:
    """Every note, in the order in which a reader needs them."""
    strategies = [row for row in section.rows if not row.is_control and row.n]
    notes = [*_seed_notes(section), *_difference_notes(section, strategies), *_mark_notes(section, strategies)]
    if any(row.is_best for row in strategies):
        notes.append("Bold: the highest mean, and those that cannot be told apart from it.")
    notes += [reversal_note(section, label) for label in section.reversals]
    if any(f"({EXTERNAL})" in row.label for row in section.rows):
        name = EXTERNAL.capitalize()
        notes.append(f"{name}: encoders from elsewhere, of other sizes and trainings, asked the same.")
    notes += _tuning_notes(strategies)
    if section.has_budget:
        notes.append("Whole epochs, as many as come nearest to the budget.")
    if section.dataset == "shapes":
        notes.append("Generated data: a smoke test of the pipeline, not evidence about strategies.")
    return notes


def median_detectable(rows: Sequence["ComparisonRow"]) -> Estimate | None:
    """The detectable difference from the baseline of the row in the middle, with how uncertain it is."""
    known = [row.difference.detectable for row in rows if row.difference is not None and row.difference.detectable]
    return sorted(known, key=lambda each: each.value)[len(known) // 2] if known else None


def format_detectable(detectable: Estimate) -> str:
    """ "4.9 points (3.1 to 11)"."""
    ends = [f"{100 * end:.2g}" for end in (detectable.low, detectable.high) if end is not None]
    return f"{100 * detectable.value:.1f} points ({' to '.join(ends)})"


def reversal_note(section: "ComparisonSection", label: str) -> str:
    """That other probes put a row on the other side of the baseline."""
    others = ", ".join(heading(metric) for metric in section.reversals[label])
    return f"{label}: the sign of its difference from {section.baseline} is the opposite in {others}."


def _seed_notes(section: "ComparisonSection") -> list[str]:
    machines = ", ".join(section.machines)
    notes = [f"Top-1 accuracy in % on test, mean over n seeds; images/s end to end on {machines}."]
    if max((row.n for row in section.rows), default=0) == 1:
        return [*notes, "One seed: no interval can be given and nothing tested; small differences mean nothing."]
    return [*notes, "±: half of the 95 % t interval over seeds."]


def _difference_notes(section: "ComparisonSection", strategies: Sequence["ComparisonRow"]) -> list[str]:
    from_baseline = [row.difference for row in strategies if row.difference is not None]
    from_untrained = [row.from_untrained for row in strategies if row.from_untrained is not None]
    notes = []
    if any(each.p is not None for each in from_baseline):
        notes.append(_family_note(section, from_baseline))
    if any(each.p is not None for each in from_untrained):
        count = sum(each.p is not None for each in from_untrained)
        notes.append(f"Δ {UNTRAINED}: the same from the encoder without training, corrected over {count}.")
    detectable = median_detectable(strategies)
    if detectable is not None:
        notes.append(
            f"A true difference of {format_detectable(detectable)} from {section.baseline} would be found with a "
            f"chance of 80 %; in brackets what the spread of so few seeds leaves open."
        )
    if not notes and max((row.n for row in strategies), default=0) > 1 and (from_baseline or from_untrained):
        return [f"Nothing is tested: {_why_not_tested(strategies)}."]
    return notes


def _family_note(section: "ComparisonSection", differences: Sequence["RowDifference"]) -> str:
    tested = [each for each in differences if each.p is not None]
    test = "paired by seed" if all(each.n == each.n_other >= PAIRED_FROM for each in tested) else "Welch's test"
    if section.correlation is not None:
        test += f"; correlation of a seed's accuracies {section.correlation:.2f}".replace("-", MINUS)
    return (
        f"Δ {section.baseline}: difference in {heading(section.metric)}, {test}. Intervals and p are corrected "
        f"for {len(tested)} comparisons (Bonferroni): all intervals hold at once with 95 %."
    )


def _why_not_tested(strategies: Sequence["ComparisonRow"]) -> str:
    fewest = min(row.n for row in strategies)
    if fewest < MIN_SEEDS:
        return f"{fewest} seed{'s' * (fewest > 1)} of a strategy; {MIN_SEEDS} are the least"
    if fewest == MIN_SEEDS and len(strategies) > MOST_AT_MIN_SEEDS:
        return f"{MIN_SEEDS} seeds cannot tell {len(strategies)} strategies apart; take 5"
    return "some runs failed or diverged, and the others are no fair sample"


def _mark_notes(section: "ComparisonSection", strategies: Sequence["ComparisonRow"]) -> list[str]:
    marks = {mark for row in section.rows for mark in row.marks}
    notes = {
        NOT_ABOVE: f"{NOT_ABOVE}: not shown to be above {UNTRAINED}, so never bold.",
        OTHER_SEEDS: f"{OTHER_SEEDS}: a mean over other seeds than those of most rows.",
        OTHER_RATIO: f"{OTHER_RATIO}: hides another share of the image than {section.baseline} (by more than "
        f"{RATIO_TOLERANCE:g}), so the difference is also one of the ratio.",
    }
    survivors = [row.label for row in strategies if row.has_survivors]
    shown = [note for mark, note in notes.items() if mark in marks]
    if survivors:
        shown.append(f"Not judged, because some runs failed and the others are no fair sample: {', '.join(survivors)}.")
    return shown


def _tuning_notes(strategies: Sequence["ComparisonRow"]) -> list[str]:
    trials = [row.tuning.trials for row in strategies if row.tuning is not None]
    if trials:
        return [
            f"Tuned: {trials[0]} combinations tried for each strategy, the best on validation with seeds of "
            f"their own; tuning s: what that took. Controls are not tuned."
        ]
    has_difference = any(row.difference is not None for row in strategies)
    return ["One learning rate for all, not tuned for each."] if has_difference else []
