"""Figures from records, each as PNG and SVG, one column wide."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from maskbench.analysis.across_datasets import split_data
from maskbench.analysis.comparison import compare_strategies
from maskbench.analysis.comparison_section import ComparisonSection
from maskbench.analysis.figures import (
    accuracy_against_cost,
    accuracy_against_ratio,
    diagnostics,
    differences,
    heat_map,
    learning_curves,
    recovery,
)
from maskbench.analysis.figures.style import RC, Looks, assign_looks
from maskbench.analysis.metrics import BASELINE, deciding_metric
from maskbench.analysis.results import Results, split_groups
from maskbench.config.plain_files import NotPlain, read_regular_file
from maskbench.record import RunRecord
from maskbench.runtime.atomic_files import write_atomically

NAMES = (
    "accuracy-against-cost",
    "differences",
    "accuracy-against-ratio",
    "diagnostics",
    "learning-curves",
    "learning-curves-time",
    "learning-curves-flops",
    "recovery",
    "data-sets",
)
_OURS = re.compile(rf"({'|'.join(NAMES)})(-\d+)?\.(png|svg)")


def write_figures(results: Results, folder: Path, baseline: str = BASELINE) -> list[Path]:
    """Write every figure that has something to show, for every group, as PNG and SVG; the paths.

    Earlier figures that would show nothing now are removed. One version of matplotlib always writes the same bytes; it
    is written beside the figures, and another one warns.
    """
    version = folder / "matplotlib-version.txt"
    earlier = _read_version(version)
    if earlier not in (None, matplotlib.__version__):
        warnings.warn(
            f"figures in {folder} were made by matplotlib {earlier}; "
            f"{matplotlib.__version__} draws them slightly differently",
            stacklevel=2,
        )
    with matplotlib.rc_context(RC):
        written = [path for name, figure in draw_figures(results, baseline) for path in _save(figure, folder / name)]
    if written:
        write_atomically(version, matplotlib.__version__ + "\n")
    for path in folder.glob("*"):
        if _OURS.fullmatch(path.name) and path not in written:
            path.unlink()
    return written


def _read_version(path: Path) -> str | None:
    """The version of matplotlib that made a folder's figures; None where nothing says so in words."""
    with suppress(OSError, NotPlain, UnicodeDecodeError):
        found = re.fullmatch(r"\s*([\w.+-]{1,40})\s*", read_regular_file(path, 1024).decode())
        return None if found is None else found[1]
    return None


def draw_figures(results: Results, baseline: str = BASELINE) -> Iterator[tuple[str, Figure]]:
    """Names and figures, in matplotlib's current style. Groups are numbered where there are several."""
    frame = results.frame
    if not len(frame):
        return
    look = assign_looks(frame["label"])
    by_id = {record.run_id: record for record in results.records}
    grouped = list(split_groups(frame))
    sections = compare_strategies(frame, baseline)
    for number, (group, members) in enumerate(grouped, 1):
        own = [section for section in sections if section.group == group]
        for name, each in _draw_group(members[members["status"] == "complete"], own, by_id, look):
            yield (name if len(grouped) == 1 else f"{name}-{number}"), each
    parts = split_data(frame)
    for number, (_, members) in enumerate(parts.groupby("rest", sort=True), 1):
        metric = deciding_metric(members)
        figure = None if metric is None else heat_map.draw(members, metric)
        if figure is not None:
            yield (f"data-sets-{number}" if parts["rest"].nunique() > 1 else "data-sets"), figure


def _draw_group(
    members: pd.DataFrame, sections: Sequence[ComparisonSection], by_id: dict[str, RunRecord], look: Looks
) -> Iterator[tuple[str, Figure]]:
    metric, baseline = deciding_metric(members), sections[0].baseline or ""
    if metric is not None:
        known = members.dropna(subset=[metric])
        figures = {
            "accuracy-against-cost": accuracy_against_cost.draw(known, metric, look, baseline),
            "differences": differences.draw(sections, known, look),
            "accuracy-against-ratio": accuracy_against_ratio.draw(known, metric, look),
            "diagnostics": diagnostics.draw(known, metric, look, baseline),
        }
        yield from ((name, figure) for name, figure in figures.items() if figure is not None)
    runs: dict[str, list[RunRecord]] = {}
    for run_id, label in zip(members["run_id"], members["label"], strict=True):
        runs.setdefault(label, []).append(by_id[run_id])
    for along in learning_curves.AXES:
        figure = learning_curves.draw(runs, along, look, baseline)
        if figure is not None:
            yield ("learning-curves" if along == "epoch" else f"learning-curves-{along}"), figure
    figure = recovery.draw(runs, look, baseline)
    if figure is not None:
        yield "recovery", figure


def _save(figure: Figure, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        path = stem.with_name(f"{stem.name}.{kind}")
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths
