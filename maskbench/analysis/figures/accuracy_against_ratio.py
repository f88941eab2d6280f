"""How much to hide: accuracy by the ratio that was realised."""

import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.figures.style import Looks, canvas, legend, probe_of
from maskbench.analysis.results import without_ratio
from maskbench.analysis.statistics import mean_interval

RATIO = "realised_ratio_mean"


def draw(runs: pd.DataFrame, metric: str, look: Looks) -> Figure | None:
    """A line for each strategy that was run at two ratios and more, all else the same: a small point a run, means
    with 95 % t intervals. None where there is no such strategy."""
    if RATIO not in runs:
        return None
    figure, (axes,) = canvas("share hidden", f"{probe_of(metric)} (%)")
    trained = runs[~runs["control"]].dropna(subset=[RATIO, metric])
    counts = {}
    for name, own in trained.groupby(trained["label"].map(without_ratio), sort=True):
        ratio = own.groupby("label")[RATIO].mean().sort_values()
        if len(ratio) < 2:
            continue
        style = look[own["label"].iloc[0]]
        axes.plot(own[RATIO], 100 * own[metric], linestyle="", markersize=2, alpha=0.5, **style)
        found = [mean_interval((100 * own.loc[own["label"] == label, metric]).tolist()) for label in ratio.index]
        halves = [0.0 if each.low is None else each.value - each.low for each in found]
        counts[str(name)] = int(own.groupby("label").size().min())
        axes.errorbar(
            ratio.tolist(), [each.value for each in found], halves, capsize=2, label=str(name),
            **style,
        )  # fmt: skip
    return legend(figure, axes, counts) if counts else None
