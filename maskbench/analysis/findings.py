"""What a comparison says, in sentences that claim no more than its statistics do."""

import statistics
from collections.abc import Iterable

from maskbench.analysis.comparison_section import BaselineDifference, ComparisonRow, ComparisonSection
from maskbench.analysis.figures.accuracy_against_cost import pareto_front
from maskbench.analysis.metrics import heading
from maskbench.analysis.sections import format_points
from maskbench.analysis.statistics import CONFIDENCE, MIN_SEEDS

RATE = "cost/images_per_s"
MAX_NAMES = 6  # rows in a sentence
SAME_SPEED = 1.1  # times; a machine does not repeat its times more closely
Ranked = list[tuple[ComparisonRow, float]]  # strategies with their mean accuracy, the best first
Tested = list[tuple[ComparisonRow, BaselineDifference, float]]  # with the difference from the baseline and its p value


def findings(section: ComparisonSection) -> list[str]:
    """Sentences, the most important first."""
    ranked = [
        (row, mean) for row in section.rows if not row.is_control and (mean := row.mean(section.metric)) is not None
    ]
    if not ranked:
        return ["No run of a strategy is complete."]
    sentences = [
        _best_sentence(ranked, section.metric),
        *_difference_sentences(section),
        *_control_sentences(section, *ranked[0]),
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
    lettered = [(row, own) for row, own in ranked if row.letters is not None]
    if not lettered:
        return f"{first.label} has the highest mean, {figure}; {_why_not_tested(ranked)} to say which are best."
    if first.letters is None:
        few = f"{first.label} has the highest mean, {figure}, but too few seeds to compare (n = {first.n})."
        return f"{few} {_lettered_sentence(lettered, metric)}"
    return _lettered_sentence(lettered, metric)


def _why_not_tested(ranked: Ranked) -> str:
    fewest = min(row.n for row, _ in ranked)
    if fewest >= MIN_SEEDS:
        return "there are too many strategies"
    for_some = " for some" if any(row.n > fewest for row, _ in ranked) else ""
    return f"n = {fewest}{for_some} is too few"


def _lettered_sentence(lettered: Ranked, metric: str) -> str:
    """The best row, and which others do not differ from it significantly."""
    first, mean = lettered[0]
    same = [row.label for row, _ in lettered[1:] if row.is_best]
    if same:
        return (
            f"{first.label} has the highest mean, {_figure(mean, metric)}; the difference from {_join(same)} is not "
            f"significant."
        )
    return f"{first.label} is best, {_figure(mean, metric)}: significantly different from every other strategy."


def _difference_sentences(section: ComparisonSection) -> list[str]:
    """Which rows differ from the baseline, and how large a difference the seeds could have shown."""
    tested: Tested = [
        (row, row.difference, row.difference.p_holm)
        for row in section.rows
        if row.difference is not None and row.difference.p_holm is not None
    ]
    if not tested:
        return []
    significant = [(row, difference) for row, difference, p in tested if p < 1 - CONFIDENCE]
    better = [_format_difference(*each) for each in significant if each[1].mean > 0]
    worse = [_format_difference(*each) for each in significant if each[1].mean < 0]
    same = [row.label for row, _, p in tested if p >= 1 - CONFIDENCE]
    baseline = section.baseline
    sentences = [f"Better than {baseline}: {_join(better, '; ')}."] if better else []
    sentences += [f"Worse than {baseline}: {_join(worse, '; ')}."] if worse else []
    if same:
        n = min(difference.n for _, difference, p in tested if p >= 1 - CONFIDENCE)
        sentences.append(f"No significant difference from {baseline} with {n} seeds: {_join(same)}.")
    return [*sentences, _power_sentence(tested)]


def _power_sentence(tested: Tested) -> str:
    effects = [each.minimum_detectable for _, each, _ in tested if each.minimum_detectable is not None]
    return (
        f"With these seeds, a test detects a true difference of {100 * statistics.median(effects):.1f} points in four "
        f"cases of five, before the correction for several comparisons."
    )


def _control_sentences(section: ComparisonSection, best: ComparisonRow, highest: float) -> list[str]:
    means = {row.label: row.mean(section.metric) for row in section.rows if row.is_control}
    untrained, supervised = means.get("random-init"), means.get("supervised")
    sentences = []
    if untrained is not None:
        few = f" (n = {best.n})" if best.n < MIN_SEEDS else ""
        sentences.append(
            f"The same encoder without training (random-init) reaches {_percent(untrained)}: pre-training with "
            f"{best.label} changes that by {format_points(highest - untrained)} points{few}."
        )
    if supervised is not None:
        sentences.append(f"Trained with labels (supervised), it reaches {_percent(supervised)}.")
    return sentences


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


def _format_difference(row: ComparisonRow, difference: BaselineDifference) -> str:
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
