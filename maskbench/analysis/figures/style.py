"""How figures look: one column of a paper wide, the same colour for a strategy everywhere, legible in grey print."""

import hashlib
import textwrap
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from maskbench.analysis.metrics import heading
from maskbench.analysis.results import is_control

WIDTH = 3.15  # inches: 8 cm, a column; the size of type is what is printed
HEIGHT = 2.1  # of the axes
LINE = 0.135  # of the legend
WIDE = 26  # letters of a label, beyond which the legend has one column
LONGEST = 52  # letters in a line of the legend

# Okabe and Ito's palette: told apart with every kind of colour vision; markers tell them apart in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#44AA99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
CONTROL = "0.35"
MANY = 12  # labels that a reader can still tell apart
RC = {
    "font.size": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 4,
    "text.parse_math": False,  # labels come from records, where a $ is a $
    "svg.hashsalt": "maskbench",
    "svg.fonttype": "none",
    "savefig.dpi": 200,
}

Look = dict[str, Any]
Looks = dict[str, Look]
OTHER: Look = {"color": "0.75", "marker": "."}  # of many, those that are not picked


def assign_looks(labels: Iterable[str]) -> Looks:
    """Colour and marker of each label of a results folder: its own in all its figures, and in other folders as far as
    hashing keeps labels apart; the settings of one strategy share its colour; controls are grey."""
    colours: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    chosen: Looks = {}
    for label in sorted(set(labels)):
        name = strategy_of(label)
        if is_control(label):
            chosen[label] = {"color": CONTROL, "marker": "*"}
            continue
        digest = hashlib.sha256(name.encode()).digest()
        colour = colours.setdefault(name, _free(digest[0] % len(COLOURS), set(colours.values()), len(COLOURS)))
        alone = _free(digest[1] % len(MARKERS), {marker for _, marker in taken}, len(MARKERS))
        marker = _free(alone, {marker for other, marker in taken if other == colour}, len(MARKERS))
        taken.add((colour, marker))
        chosen[label] = {"color": COLOURS[colour], "marker": MARKERS[marker]}
    return chosen


def _free(wanted: int, taken: set[int], size: int) -> int:
    """The next number from `wanted` on, going round, that is not taken; `wanted` where all are."""
    return next(((wanted + step) % size for step in range(size) if (wanted + step) % size not in taken), wanted)


def strategy_of(label: str) -> str:
    """ "random (ratio=0.5)" -> "random"."""
    return label.partition(" (")[0]


def wrap_label(label: str, width: int) -> str:
    """In lines of at most `width` letters."""
    return "\n".join(textwrap.wrap(label, width))


def probe_of(metric: str) -> str:
    """ "linear/top1/mean" -> "linear probe, mean patch"."""
    probe, _, pooling = heading(metric).partition(" ")
    return f"{probe}{' probe' if probe == 'linear' else ''}, {'mean patch' if pooling == 'mean' else 'class token'}"


def canvas(x: str, y: str, *, height: float = HEIGHT, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` beside each other, with what their axes say."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    for each in axes:
        each.set_xlabel(x)
        for axis in (each.xaxis, each.yaxis):  # ticks that change with the size would change the layout that sets it
            axis.set_major_locator(MaxNLocator(nbins=6 if panels == 1 else 4, steps=[1, 2, 5, 10]))
    axes[0].set_ylabel(y)
    return figure, axes


def pick_coloured(scores: Mapping[str, float], baseline: str, also: Collection[str] = ()) -> set[str]:
    """The labels that are shown in their colours: all, or, of more than MANY, the best, the baseline and `also`."""
    if len(scores) <= MANY:
        return set(scores)
    best = sorted(scores, key=lambda label: -scores[label])
    first = dict.fromkeys([*(label for label in (baseline,) if label in scores), *also, *best])
    return set(list(first)[:MANY])


def legend(figure: Figure, axes: Axes, counts: Mapping[str, int], others: int = 0) -> Figure:
    """The legend below, in as many lines as it needs, the figure higher by them. counts: runs of each label, said once
    where they are the same. others: how many labels are drawn in grey."""
    handles, names = axes.get_legend_handles_labels()
    known = {counts[name] for name in names if name in counts}
    title = f"n = {known.pop()} each" if len(known) == 1 else None
    labels = [f"{name} (n = {counts[name]})" if title is None and name in counts else name for name in names]
    if others:
        handles.append(Line2D([], [], color=OTHER["color"], marker=OTHER["marker"], linestyle=""))
        labels.append(f"{others} others, in the table")
    columns = 1 if max(map(len, labels), default=0) > WIDE else 2
    labels = [wrap_label(label, LONGEST) for label in labels]
    lines = -(-sum(label.count("\n") + 1 for label in labels) // columns) + (title is not None)
    figure.set_size_inches(WIDTH, figure.get_figheight() + LINE * lines + 0.05)
    figure.legend(
        handles, labels, loc="outside lower left", ncol=columns, frameon=False, fontsize=6.5, handlelength=1.5,
        columnspacing=1.0, labelspacing=0.25, borderaxespad=0.2, title=title, title_fontsize=6.5, alignment="left",
    )  # fmt: skip
    return figure
