"""Which strategy for which data: a field for each pair."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.figures.style import LINE, canvas, probe_of, wrap_label

ROW = 0.19  # inches
NAME = 24  # letters in a line


def draw(runs: pd.DataFrame, metric: str) -> Figure | None:
    """Mean accuracies, a row a label and a column a data set, lighter the nearer to the best of the column. `runs` have
    a column "data". None for a single data set."""
    table = 100 * runs.dropna(subset=[metric]).pivot_table(metric, "label", "data", aggfunc="mean")
    if table.shape[1] < 2:
        return None
    table = table.loc[table.mean(axis=1).sort_values(ascending=False).index]
    names = [wrap_label(label, NAME) for label in table.index]
    row = ROW + LINE * max(name.count("\n") for name in names)
    figure, (axes,) = canvas("", "", height=1.1 + row * len(table))
    behind = (table - table.max()).to_numpy()
    image = axes.imshow(behind, cmap="cividis", aspect="auto")
    middle = np.nanmin(behind) / 2
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        ink = "black" if behind[row, column] > middle else "white"
        text = "–" if np.isnan(value) else f"{value:.1f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6.5)
    axes.set_xticks(range(table.shape[1]), [_wrap_group(name) for name in table.columns])
    axes.set_yticks(range(len(table)), names)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, fraction=0.05)
    bar.set_label(f"{probe_of(metric)} (%);\ncolour: points behind the best of the column")
    return figure


def _wrap_group(name: str) -> str:
    """ "cifar10 (c53d), 20,000 images, 32x32x3" in lines."""
    title, _, rest = name.partition(" (")
    return "\n".join([title, *rest.partition("), ")[2].split(", ")])
