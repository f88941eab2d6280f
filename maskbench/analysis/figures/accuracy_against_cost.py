"""The headline: what a strategy's accuracy costs."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.figures.style import CONTROL, OTHER, Looks, canvas, legend, pick_coloured, probe_of
from maskbench.analysis.statistics import mean_interval

RATE = "cost/images_per_s"


def draw(runs: pd.DataFrame, metric: str, look: Looks, baseline: str) -> Figure | None:
    """Accuracy against images/s, end to end: a small point a run, a large one a mean with its 95 % t interval; the
    front that no other strategy beats in both; what costs nothing as a line. None where nothing was trained."""
    if RATE not in runs or runs[RATE].isna().all():
        return None
    figure, (axes,) = canvas("images/s, end to end", f"{probe_of(metric)} (%)")
    trained = runs.dropna(subset=[RATE])
    points = {
        str(label): (own[RATE].mean(), 100 * own[metric].mean())
        for label, own in trained[~trained["control"]].groupby("label")
    }
    best = pareto_front(points)
    shown = pick_coloured({label: accuracy for label, (_, accuracy) in points.items()}, baseline, best)
    for label, own in runs.groupby("label", sort=True):
        if own[RATE].isna().all():
            mean = 100 * own[metric].mean()
            axes.axhline(mean, color=CONTROL, linestyle="--", linewidth=0.8, label=str(label), zorder=1)
        elif label in points and label not in shown:
            axes.plot(*points[str(label)], linestyle="", zorder=1, **OTHER)
        else:
            axes.plot(own[RATE], 100 * own[metric], linestyle="", markersize=2, alpha=0.5, **look[str(label)])
            found = mean_interval((100 * own[metric]).tolist())
            half = None if found.low is None else found.value - found.low
            axes.errorbar(
                own[RATE].mean(), found.value, half, capsize=2, linewidth=0.8, linestyle="", label=str(label),
                **look[str(label)],
            )  # fmt: skip
    if len(best) > 1:
        line = [points[label] for label in best]
        axes.plot(*zip(*line, strict=True), color="0.6", linewidth=0.8, zorder=1, label="Pareto front")
    axes.set_xlim(0, 1.06 * trained[RATE].max())
    counts = {str(label): len(own) for label, own in runs.groupby("label")}
    return legend(figure, axes, counts, len(points) - len(shown))


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The labels whose (x, y) no other one reaches in both and beats in one, by x."""
    kept: list[str] = []
    for label in sorted(points, key=lambda label: points[label], reverse=True):
        if not kept or points[label][1] > points[kept[-1]][1]:
            kept.append(label)
    return kept[::-1]
