"""How much to hide: accuracy by the ratio that was realised."""

import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.figures.style import Looks, canvas, legend, probe_of, strategy_of
from maskbench.analysis.statistics import mean_interval

RATIO = "realised_ratio_mean"


def draw(runs: pd.DataFrame, metric: str, look: Looks) -> Figure | None:
    """A line for each strategy that was run at two ratios and more: a small point a run, means with 95 % t intervals.
    None where there is no such strategy."""
    if RATIO not in runs:
        return None
    figure, (axes,) = canvas("share hidden", f"{probe_of(metric)} (%)")
    trained = runs[~runs["control"]].dropna(subset=[RATIO, metric])
    counts = {}
    for name, own in trained.groupby(trained["label"].map(strategy_of), sort=True):
        ratio = own.groupby("label")[RATIO].mean().round(3)
        if ratio.nunique() < 2:
            continue
        style = look[own["label"].iloc[0]]
        axes.plot(own[RATIO], 100 * own[metric], linestyle="", markersize=2, alpha=0.5, **style)
        found = {at: mean_interval((100 * own.loc[own["label"] == label, metric]).tolist())
                 for label, at in sorted(ratio.items(), key=lambda item: item[1])}  # fmt: skip
        halves = [0.0 if each.low is None else each.value - each.low for each in found.values()]
        counts[str(name)] = int(own.groupby("label").size().min())
        axes.errorbar(
            list(found), [each.value for each in found.values()], halves, capsize=2, label=str(name),
            **style,
        )  # fmt: skip
    return legend(figure, axes, counts) if counts else None
