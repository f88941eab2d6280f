"""Which strategies differ from the baseline, and by how much: a forest plot."""

import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.figures.style import LINE, Looks, canvas, probe_of, wrap_label
from maskbench.analysis.statistics import paired_difference

ROW = 0.17  # inches
NAME = 24  # letters in a line


def draw(runs: pd.DataFrame, metric: str, look: Looks, baseline: str) -> Figure | None:
    """Paired differences from `baseline` in points: a small point a seed, a large one the mean with its 95 % t interval
    (none below three seeds); the best above. None where nothing can be compared."""
    own = runs[~runs["control"]].dropna(subset=[metric])
    scores = {
        str(label): dict(zip(members["seed"], members[metric], strict=True)) for label, members in own.groupby("label")
    }
    if baseline not in scores:
        return None
    theirs = scores.pop(baseline)
    found = {label: paired_difference(seeds, theirs) for label, seeds in scores.items()}
    known = sorted((each.mean, label, each) for label, each in found.items() if each is not None)
    if not known:
        return None
    seeds = sorted({each.n for _, _, each in known})
    said = f", n = {seeds[0]}" if len(seeds) == 1 else ""
    x = f"{probe_of(metric)}:\ndifference from {baseline} (points{said})"
    names = [wrap_label(label if said else f"{label} (n = {each.n})", NAME) for _, label, each in known]
    row = ROW + LINE * max(name.count("\n") for name in names)
    figure, (axes,) = canvas(x, "", height=0.75 + row * len(known))
    axes.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    for place, (mean, label, each) in enumerate(known):
        style = look[label]
        points = [100 * (score - theirs[seed]) for seed, score in scores[label].items() if seed in theirs]
        axes.plot(points, [place] * len(points), linestyle="", markersize=2, alpha=0.5, **style)
        half = None if each.low is None else 100 * (mean - each.low)
        axes.errorbar(100 * mean, place, xerr=half, capsize=2, linewidth=0.8, linestyle="", **style)
    axes.set_yticks(range(len(known)), names)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.grid(visible=False, axis="y")
    return figure
