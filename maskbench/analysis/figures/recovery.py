"""Does training beat predictions that understand nothing?"""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from maskbench.analysis.figures.style import OTHER, Looks, canvas, legend, pick_coloured
from maskbench.record import RunRecord

TRIVIAL = tuple(f"trivial/{name}" for name in ("constant", "neighbours", "nearest", "input"))  # in diagnostics


def draw(runs: Mapping[str, Sequence[RunRecord]], look: Looks, baseline: str) -> Figure | None:
    """The training loss by epoch, divided by that of the best trivial prediction on views of the same kind: the mean of
    a label's runs. None where no record has both."""
    shares = {label: own for label in sorted(runs) if len(own := _shares(runs[label]))}
    if not shares:
        return None
    figure, (axes,) = canvas("epoch", "training loss, of that of the\nbest trivial prediction (%)")
    means = {label: own.groupby(level=0).mean() for label, own in shares.items()}
    shown = pick_coloured({label: -mean.iloc[-1] for label, mean in means.items()}, baseline)
    for label, mean in means.items():
        style = {**look[label], "markersize": 3, "label": label} if label in shown else {"color": OTHER["color"]}
        axes.plot(mean.index, 100 * mean, **style)
    axes.axhline(100, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlim(left=0)
    return legend(figure, axes, {label: len(runs[label]) for label in means}, len(means) - len(shown))


def _shares(records: Sequence[RunRecord]) -> "pd.Series[float]":
    """Loss over the best trivial one, by epoch, of all runs."""
    values: dict[int, list[float]] = {}
    for record in records:
        losses = [value for name, value in record.diagnostics.items()
                  if name in TRIVIAL and isinstance(value, float)]  # fmt: skip
        for row in record.curve if losses else ():
            if "loss" in row:
                values.setdefault(int(row["epoch"]), []).append(row["loss"] / min(losses))
    flat = [(epoch, value) for epoch, own in values.items() for value in own]
    return pd.Series([value for _, value in flat], index=[epoch for epoch, _ in flat], dtype=float)
