"""How accuracy rises with epochs, with time, and with computation."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from maskbench.analysis.figures.style import OTHER, Looks, canvas, legend, pick_coloured
from maskbench.record import RunRecord

ONLINE = "online/knn/top1/mean"
AXES = {"epoch": "epoch", "time": "seconds of training", "flops": "TFLOPs of training"}


def draw(runs: Mapping[str, Sequence[RunRecord]], along: str, look: Looks, baseline: str) -> Figure | None:
    """Online k-NN on validation by `along`, a key of AXES: a thin line a run, a thick one the mean of a label's runs,
    reading by reading. None where there are no readings."""
    read = {label: [curve for record in runs[label] if (curve := _curve(record, along)) is not None] for label in runs}
    curves = {label: own for label, own in sorted(read.items()) if own}
    if not curves:
        return None
    figure, (axes,) = canvas(AXES[along], "online k-NN on validation,\nmean patch (%)")
    means = {label: pd.concat(own).groupby(level=0).mean() for label, own in curves.items()}
    shown = pick_coloured({label: mean["y"].iloc[-1] for label, mean in means.items()}, baseline)
    for label, mean in means.items():
        if label not in shown:
            axes.plot(mean["x"], mean["y"], linewidth=0.5, color=OTHER["color"], zorder=1)
            continue
        for curve in curves[label] if len(curves[label]) > 1 else ():
            axes.plot(curve["x"], curve["y"], linewidth=0.4, alpha=0.5, color=look[label]["color"])
        axes.plot(mean["x"], mean["y"], markersize=3, label=label, **look[label])
    if along == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlim(left=0)
    return legend(figure, axes, {label: len(own) for label, own in curves.items()}, len(means) - len(shown))


def _curve(record: RunRecord, along: str) -> pd.DataFrame | None:
    """x and y, numbered by epoch; None where `along` was not recorded."""
    rows = [row for row in record.curve if ONLINE in row]
    per_image = record.metrics.get("cost/gflops_per_image")
    if not rows or (along == "flops" and per_image is None):
        return None
    if along == "flops":
        places = [row["images"] * (per_image or 0.0) / 1000 for row in rows]
    else:
        places = [row[{"epoch": "epoch", "time": "cost/train_s"}[along]] for row in rows]
    readings = [100 * row[ONLINE] for row in rows]
    return pd.DataFrame({"x": places, "y": readings}, index=[row["epoch"] for row in rows])
