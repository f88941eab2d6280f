"""Does what a mask looks like explain accuracy? Diagnostics of the masks against the probe."""

import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.figures.style import OTHER, Looks, canvas, legend, pick_coloured, probe_of

SHOWN = {"object_hidden": "share of the object\nthat is hidden", "group_size": "patches in\na hidden group"}
ENOUGH = 3  # strategies that differ


def draw(runs: pd.DataFrame, metric: str, look: Looks, baseline: str) -> Figure | None:
    """A panel for each of SHOWN that the runs have: a small point a run, a large one a strategy's mean. None where
    fewer than three strategies differ in any."""
    trained = runs[~runs["control"]].dropna(subset=[metric])
    shown = [name for name in SHOWN if name in trained and trained.groupby("label")[name].mean().nunique() >= ENOUGH]
    if not shown:
        return None
    figure, panels = canvas("", f"{probe_of(metric)} (%)", panels=len(shown))
    coloured = pick_coloured({str(label): own[metric].mean() for label, own in trained.groupby("label")}, baseline)
    counts = {str(label): len(own) for label, own in trained.groupby("label")}
    for axes, name in zip(panels, shown, strict=True):
        axes.set_xlabel(SHOWN[name])
        for label, own in trained.groupby("label", sort=True):
            mean = own[name].mean(), 100 * own[metric].mean()
            if label not in coloured:
                axes.plot(*mean, linestyle="", zorder=1, **OTHER)
                continue
            style = look[str(label)]
            axes.plot(own[name], 100 * own[metric], linestyle="", markersize=2, alpha=0.5, **style)
            axes.plot(*mean, linestyle="", label=str(label), **style)
    return legend(figure, panels[0], counts, len(counts) - len(coloured))
