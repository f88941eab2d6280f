"""What a comparison says, in sentences that claim no more than its statistics do."""

from collections.abc import Iterable

from maskbench.analysis.comparison_notes import NOT_ABOVE, format_detectable, median_detectable, reversal_note
from maskbench.analysis.comparison_section import ComparisonRow, ComparisonSection, RowDifference
from maskbench.analysis.figures.accuracy_against_cost import pareto_front
from maskbench.analysis.metrics import UNTRAINED, heading
from maskbench.analysis.sections import format_points

RATE = "cost/images_per_s"
MAX_NAMES = 6  # rows in a sentence
SAME_SPEED = 1.1  # times; a machine does not repeat its times more closely
Ranked = list[tuple[ComparisonRow, float]]  # strategies with their mean accuracy, the best first


def findings(section: ComparisonSection) -> list[str]:
    """Sentences, the most important first."""
    ranked = [
        (row, mean) for row in section.rows if not row.is_control and (mean := row.mean(section.metric)) is not None
    ]
    if not ranked:
        return ["No run of a strategy is complete."]
    strategies = [row for row, _ in ranked]
    sentences = [
        _best_sentence(ranked, section.metric),
        *_difference_sentences(section, strategies),
        *_control_sentences(section, strategies),
        *_cost_sentences(ranked),
    ]
    unfinished = [
        f"{row.label} ({count} {reason})" for row in section.rows for reason, count in row.unfinished.items() if count
    ]
    if unfinished:
        sentences.append(f"Not complete: {_join(unfinished)}.")
    if section.dataset == "shapes":
        sentences.append(
            "These images are generated. The numbers show that the tool works; they say nothing about photographs."
        )
    return sentences


def _best_sentence(ranked: Ranked, metric: str) -> str:
    first, mean = ranked[0]
    figure = _figure(mean, metric)
    if len(ranked) == 1:
        return f"{first.label} reaches {figure} (n = {first.n})."
    best = [row.label for row, _ in ranked if row.is_best]
    if first.is_best and len(best) > 1:
        return f"{first.label} has the highest mean, {figure}; it cannot be told apart from {_join(best[1:])}."
    if first.is_best:
        return f"{first.label} is best, {figure}: better than every other strategy that was tested."
    others = f" Of those that were tested, {_join(best)} may be the best." if best else ""
    return f"{first.label} has the highest mean, {figure}; {_why_not_best(first)}.{others}"


def _why_not_best(first: ComparisonRow) -> str:
    """Why the highest mean is not called the best."""
    if NOT_ABOVE in first.marks:
        return f"it is not shown to be above {UNTRAINED}"
    if first.has_survivors:
        return "some of its runs failed, so it is not judged"
    return f"n = {first.n} is too few to say which is best"


def _difference_sentences(section: ComparisonSection, strategies: list[ComparisonRow]) -> list[str]:
    """Which rows differ from the baseline, and how large a difference the seeds could have shown."""
    tested = [
        (row, row.difference) for row in strategies if row.difference is not None and row.difference.p is not None
    ]
    if not tested:
        return []
    better = [_format_difference(*each) for each in tested if each[1].is_better]
    worse = [_format_difference(*each) for each in tested if each[1].is_worse]
    same = [(row.label, each.n) for row, each in tested if not (each.is_better or each.is_worse)]
    baseline = section.baseline
    sentences = [f"Better than {baseline}: {_join(better, '; ')}."] if better else []
    sentences += [f"Worse than {baseline}: {_join(worse, '; ')}."] if worse else []
    if same:
        n = min(n for _, n in same)
        sentences.append(f"No difference from {baseline} is shown with {n} seeds: {_join(name for name, _ in same)}.")
    detectable = median_detectable(strategies)
    if detectable is not None:
        sentences.append(
            f"These seeds find a true difference of {format_detectable(detectable)} in four cases of five."
        )
    return [*sentences, *(reversal_note(section, label) for label in section.reversals)]


def _control_sentences(section: ComparisonSection, strategies: list[ComparisonRow]) -> list[str]:
    means = {row.label: row.mean(section.metric) for row in section.rows if row.is_control}
    untrained, supervised = means.get(UNTRAINED), means.get("supervised")
    sentences = []
    if untrained is not None:
        sentences.append(f"The same encoder without training ({UNTRAINED}) reaches {_percent(untrained)}.")
        sentences += _above_untrained(strategies)
    if supervised is not None:
        sentences.append(f"Trained with labels (supervised), it reaches {_percent(supervised)}.")
    return sentences


def _above_untrained(strategies: list[ComparisonRow]) -> list[str]:
    """Which rows training has helped, and which not as far as these seeds show."""
    tested = [(row, row.from_untrained) for row in strategies
              if row.from_untrained is not None and row.from_untrained.p is not None]  # fmt: skip
    kinds = {
        "Above it": [_format_difference(*each) for each in tested if each[1].is_better],
        "Below it": [_format_difference(*each) for each in tested if each[1].is_worse],
        "Not shown to be above it": [_format_difference(*each) for each in tested
                                     if not (each[1].is_better or each[1].is_worse)],
    }  # fmt: skip
    if not tested:
        rows = [(row, row.from_untrained) for row in strategies if row.from_untrained is not None]
        kinds = {"Difference from it, not tested": [_format_difference(*each) for each in rows]}
    return [f"{kind}: {_join(rows, '; ')}." for kind, rows in kinds.items() if rows]


def _cost_sentences(ranked: Ranked) -> list[str]:
    points = {row.label: (row.costs[RATE], mean) for row, mean in ranked if RATE in row.costs}
    if len(points) < 2:
        return []
    fastest = max(points, key=lambda label: points[label][0])
    rate = points[fastest][0]
    similar = [label for label in points if label != fastest and SAME_SPEED * points[label][0] > rate]
    sentences = [f"Fastest: {fastest}, {rate:.0f} images/s"]
    if similar:
        sentences[0] += f"; {_join(similar)} within 10 % of that"
    best = ranked[0][0].label
    if best in points and best not in (fastest, *similar):
        sentences[0] += f", {rate / points[best][0]:.1f} times as fast as {best}"
    sentences[0] += "."
    front = pareto_front(points)
    if len(front) > 1:
        sentences.append(f"No strategy is both faster and more accurate than {_join(front, last='or')}.")
    return sentences


def _format_difference(row: ComparisonRow, difference: RowDifference) -> str:
    mean = f"{row.label}, {format_points(difference.mean)} points"
    if difference.low is None or difference.high is None:
        return mean
    return f"{mean} [{format_points(difference.low)}, {format_points(difference.high)}]"


def _figure(mean: float, metric: str) -> str:
    return f"{_percent(mean)} in {heading(metric)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _join(names: Iterable[str], comma: str = ", ", last: str = "and") -> str:
    """ "a, b and c"; of many names the first ones, and how many others there are."""
    names = list(names)
    if len(names) > MAX_NAMES:
        names = [*names[: MAX_NAMES - 1], f"{len(names) - MAX_NAMES + 1} others"]
    return names[0] if len(names) == 1 else f"{comma.join(names[:-1])} {last} {names[-1]}"
