"""Figures from records: accuracy against cost, and learning curves."""

import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from maskbench.analysis.results import CONTROLS
from maskbench.record import RunRecord
from maskbench.storage import write_atomically

# Okabe and Ito's palette: told apart with every kind of colour vision; markers tell them apart in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#44AA99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "svg.hashsalt": "maskbench",
    "svg.fonttype": "none",
    "savefig.dpi": 200,
}
ACCURACY = "linear/top1/mean"
ONLINE = "online/knn/top1/mean"


def styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each label: its own everywhere, as far as hashing keeps labels apart; controls are grey."""
    taken: set[tuple[int, int]] = set()
    chosen: dict[str, dict[str, Any]] = {}
    for label in sorted(set(labels)):
        if label.split(" ")[0] in CONTROLS:
            chosen[label] = {"color": "0.35", "marker": "*"}
            continue
        digest = hashlib.sha256(label.encode()).digest()
        colour, marker = digest[0] % len(COLOURS), digest[1] % len(MARKERS)
        while (colour, marker) in taken or (any(colour == other for other, _ in taken) and len(taken) < len(COLOURS)):
            colour = (colour + 1) % len(COLOURS)
            if (colour, marker) in taken:
                marker = (marker + 1) % len(MARKERS)
        taken.add((colour, marker))
        chosen[label] = {"color": COLOURS[colour], "marker": MARKERS[marker]}
    return chosen


def accuracy_against_cost(results: pd.DataFrame) -> Figure:
    """Linear probe against end-to-end images/s of one group: a small point a run, a large one a mean; random-init,
    which costs nothing, as a line."""
    complete = results[results["status"] == "complete"]
    figure, axes = _figure("images/s, end to end", "linear probe, mean patch (%)")
    look = styles(complete["label"])
    for label, runs in complete.groupby("label", sort=True):
        accuracy = 100 * runs[ACCURACY]
        if "cost/images_per_s" not in runs or runs["cost/images_per_s"].isna().all():
            axes.axhline(accuracy.mean(), color="0.35", linestyle="--", linewidth=1, label=label)
            continue
        style = look[str(label)]
        axes.plot(runs["cost/images_per_s"], accuracy, linestyle="", markersize=3, alpha=0.5, **style)
        mean = (runs["cost/images_per_s"].mean(), accuracy.mean())
        axes.plot(*mean, linestyle="", markersize=7, label=f"{label} (n = {len(runs)})", **style)
    axes.set_xlim(left=0)
    return _finish(figure, axes)


def learning_curves(curves: Mapping[str, list[pd.DataFrame]]) -> Figure:
    """Online k-NN accuracy by epoch: a thin line a run, a thick one the mean of a label's runs."""
    figure, axes = _figure("epoch", "online k-NN on validation,\nmean patch (%)")
    for label, style in styles(curves).items():
        runs = curves[label]
        for run in runs if len(runs) > 1 else ():
            axes.plot(run["epoch"], 100 * run[ONLINE], linewidth=0.5, alpha=0.5, color=style["color"])
        mean = pd.concat(runs).groupby("epoch")[ONLINE].mean()
        axes.plot(mean.index, 100 * mean, markersize=4, label=f"{label} (n = {len(runs)})", **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(figure, axes)


def write_figures(records: list[RunRecord], results: pd.DataFrame, folder: Path) -> list[Path]:
    """PNG and SVG of every figure for every group; the paths. Byte-stable for one version of matplotlib, which is
    written beside them; a different one only warns."""
    version = folder / "matplotlib-version.txt"
    if version.exists() and version.read_text().strip() != matplotlib.__version__:
        warnings.warn(
            f"figures in {folder} were made by matplotlib {version.read_text().strip()}; "
            f"{matplotlib.__version__} draws them slightly differently",
            stacklevel=2,
        )
    by_id = {record.run_id: record for record in records}
    written = []
    for number, (_, members) in enumerate(results.groupby("group", sort=True)):
        suffix = "" if results["group"].nunique() == 1 else f"-{number + 1}"
        if ACCURACY in members and members[ACCURACY].notna().any():
            written += _save(accuracy_against_cost(members), folder / f"accuracy-against-cost{suffix}")
        curves: dict[str, list[pd.DataFrame]] = {}
        for run_id, label in zip(members["run_id"], members["label"], strict=True):
            curve = pd.DataFrame(by_id[run_id].curve)
            if ONLINE in curve:
                curves.setdefault(label, []).append(curve.dropna(subset=[ONLINE]))
        if curves:
            written += _save(learning_curves(curves), folder / f"learning-curves{suffix}")
    if written:
        write_atomically(version, matplotlib.__version__ + "\n")
    return written


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _finish(figure: Figure, axes: Axes) -> Figure:
    with matplotlib.rc_context(STYLE):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, handlelength=1.5)
    return figure


def _save(figure: Figure, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=kind, metadata=metadata)
        path = stem.with_name(f"{stem.name}.{kind}")
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths
