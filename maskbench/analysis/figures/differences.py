"""Which strategies differ from the baseline, and by how much: a forest plot."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.comparison_section import ComparisonSection
from maskbench.analysis.figures.style import LINE, Looks, canvas, probe_of, wrap_label
from maskbench.analysis.results import without_ratio

ROW = 0.17  # inches
NAME = 24  # letters in a line


def draw(sections: Sequence[ComparisonSection], runs: pd.DataFrame, look: Looks) -> Figure | None:
    """Differences from the baseline in points, as the tables have them: a small point a seed (its accuracy minus the
    baseline's mean), a large one the mean with its corrected interval; the best above. None where nothing is compared.

    sections: those of one group, each with a baseline of its own. runs: the complete runs of the group.
    """
    metric = sections[0].metric
    known = sorted(
        (row.difference.mean, row.label, row, base)
        for section in sections
        for base in (row.mean(metric) for row in section.rows if row.label == section.baseline)
        for row in section.rows
        if row.difference is not None and base is not None
    )
    if not known:
        return None
    baseline = sections[0].baseline if len(sections) == 1 else f"{without_ratio(str(sections[0].baseline))}, same ratio"
    seeds = sorted({row.n for _, _, row, _ in known})
    said = f", n = {seeds[0]}" if len(seeds) == 1 else ""
    x = f"{probe_of(metric)}:\ndifference from {baseline} (points{said})"
    names = [wrap_label(row.name if said else f"{row.name} (n = {row.n})", NAME) for _, _, row, _ in known]
    height = ROW + LINE * max(name.count("\n") for name in names)
    figure, (axes,) = canvas(x, "", height=0.75 + height * len(known))
    axes.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    for place, (mean, label, row, base) in enumerate(known):
        style = look[label]
        points = [100 * (score - base) for score in runs[metric][runs["label"] == label].dropna()]
        axes.plot(points, [place] * len(points), linestyle="", markersize=2, alpha=0.5, **style)
        low = row.difference.low if row.difference is not None else None
        half = None if low is None else 100 * (mean - low)
        axes.errorbar(100 * mean, place, xerr=half, capsize=2, linewidth=0.8, linestyle="", **style)
    axes.set_yticks(range(len(known)), names)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.grid(visible=False, axis="y")
    return figure
