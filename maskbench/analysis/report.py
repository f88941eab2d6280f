"""One HTML page about a results folder: self-contained, complete without a network and without JavaScript."""

import base64
import hashlib
import io
import json
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import yaml
from PIL import Image

from maskbench._version import __version__
from maskbench.analysis.comparison import compare_strategies
from maskbench.analysis.comparison_section import ComparisonSection
from maskbench.analysis.figures import draw_figures
from maskbench.analysis.figures.learning_curves import ONLINE
from maskbench.analysis.figures.style import RC, Looks, assign_looks
from maskbench.analysis.findings import findings
from maskbench.analysis.metrics import BASELINE
from maskbench.analysis.results import Results, split_groups
from maskbench.analysis.sections import Column, Section
from maskbench.analysis.tables import make_other_tables
from maskbench.config.plain_files import NotPlain, read_regular_file
from maskbench.record import RunRecord
from maskbench.runtime.atomic_files import write_atomically
from maskbench.runtime.escaping import print_message

MAX_PICTURES = 40  # of masks
PICTURE_SIZE = 800  # pixels, of the longer side
MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS = 32 * 2**20, 64_000_000  # of a masks.png
ALT = {
    "accuracy-against-cost": "Accuracy of the linear probe against images per second",
    "differences": "Differences from the baseline with intervals that hold at once with 95 %",
    "accuracy-against-ratio": "Accuracy against the masking ratio",
    "diagnostics": "Accuracy against measurements of the masks",
    "learning-curves": "Online k-NN accuracy on validation images, by epoch",
    "learning-curves-time": "Online k-NN accuracy on validation images, by seconds of training",
    "learning-curves-flops": "Online k-NN accuracy on validation images, by computation",
    "recovery": "Training loss against the best trivial prediction: above the line, nothing was learned",
    "data-sets": "Accuracy of every strategy on every data set",
}
# Settings that are shown with each run, or not at all.
NOT_SHARED = ("seed", "output", "data.data_dir", "data.memory_gib", "system.device", "system.workers")


def write_report(results: Results, path: Path, baseline: str = BASELINE) -> Path:
    """Write the page to `path`, and return it."""
    write_atomically(path, render_page(results, baseline))
    return path


def render_page(results: Results, baseline: str = BASELINE) -> str:
    """The page as HTML. Everything that comes from records is escaped."""
    look = assign_looks(results.frame["label"]) if results.records else {}
    sections = compare_strategies(results.frame, baseline, results.trials) if results.records else []
    figures = _figures(results, baseline)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(each.group for each in sections), 1)}
    groups = [_group(results, each, look, figures.pop(numbers[each.group], [])) for each in sections]
    others = make_other_tables(results, baseline).values()
    script, style = _asset("report.js"), _asset("report.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("report.html.jinja")).render(
        title=results.folder.resolve().name,
        folder=str(results.folder),
        groups=groups,
        across=figures.get(0, []),
        others=[_table(section) for sections in others for section in sections],
        runs=len(results.records),
        versions=sorted({record.environment.get("versions", {}).get("maskbench", "?") for record in results.records}),
        version=__version__,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _asset(name: str) -> str:
    return resources.files("maskbench.templates").joinpath(name).read_text()


def _group(results: Results, section: ComparisonSection, look: Looks, figures: list[dict[str, str]]) -> dict[str, Any]:
    """Everything that the page shows of one group."""
    members = dict(split_groups(results.frame))[section.group]
    members = members[members["label"].isin([row.label for row in section.rows])]
    by_id = {record.run_id: record for record in results.records}
    labels = dict(zip(members["run_id"], members["label"], strict=True))
    records = [by_id[run_id] for run_id in members["run_id"]]
    flat = {record.run_id: _flatten(record.config) for record in records}
    shared = dict(set.intersection(*({*each.items()} for each in flat.values())))
    rows: dict[str, Any] = {}
    for record in records:
        own = {path: value for path, value in flat[record.run_id].items() if path not in shared}
        rows.setdefault(labels[record.run_id], {"settings": _lines(own), "runs": []})["runs"].append(
            _run(record, section.metric, results.folder)
        )
    machines = {json.dumps(_machine(record), sort_keys=True): _machine(record) for record in records}
    return {
        **_comparison(section),
        "findings": findings(section),
        "figures": figures,
        "curves": _curves(records, labels, look),
        "masks": _masks(results.folder, records, labels),
        "rows": rows,
        "shared": _lines(shared),
        "machines": [yaml.safe_dump(machine, sort_keys=False, allow_unicode=True) for machine in machines.values()],
    }


def _table(section: Section) -> dict[str, Any]:
    """Headings and cells as text; the deciding cells of the best rows are marked."""
    return _cells(section, section.filled_columns())


def _comparison(section: Section) -> dict[str, Any]:
    """The comparison, with the columns of cost in a second table: one of both would be wider than a screen."""
    columns = section.filled_columns()
    results, costs = ([column for column in columns if column.is_cost == is_cost] for is_cost in (False, True))
    return {**_cells(section, results), "costs": {**_cells(section, costs), "about": "Cost", "notes": []}}


def _cells(section: Section, columns: list[Column]) -> dict[str, Any]:
    body = []
    for place, row in enumerate(section.rows):
        cells = [{"text": column.cells[place] or "–", "best": row.is_best and column.decides} for column in columns]
        body.append({"label": row.name, "control": row.is_control, "cells": cells})
    return {
        "about": section.about or "Comparison",
        "row_heading": section.row_heading,
        "parts": [*section.group.split(" | "), *([section.about] if section.about else [])],
        "headings": [column.heading for column in columns],
        "body": body,
        "notes": section.notes,
    }


def _figures(results: Results, baseline: str) -> dict[int, list[dict[str, str]]]:
    """SVG images by number of group, from 1; 0: across groups."""
    images: dict[int, list[dict[str, str]]] = {}
    with matplotlib.rc_context(RC):
        for name, figure in draw_figures(results, baseline):
            kind, group = _split_name(name)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
            image = {"name": kind, "alt": ALT[kind], "uri": _uri("svg+xml", buffer.getvalue())}
            images.setdefault(0 if kind == "data-sets" else group, []).append(image)
    return images


def _split_name(name: str) -> tuple[str, int]:
    """ "differences-2" -> ("differences", 2); without a number, group 1."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdigit() else (name, 1)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _curves(records: list[RunRecord], labels: dict[str, str], look: Looks) -> list[dict[str, Any]]:
    """Mean online k-NN accuracy in % by epoch of each label, for the interactive chart."""
    readings: dict[str, dict[float, list[float]]] = {}
    for record in records:
        for row in record.curve if record.status == "complete" else ():
            if ONLINE in row:
                readings.setdefault(labels[record.run_id], {}).setdefault(row["epoch"], []).append(100 * row[ONLINE])
    return [
        {
            "label": label,
            "color": look[label]["color"] if look[label]["color"].startswith("#") else "#767676",
            "points": [[epoch, round(sum(values) / len(values), 2)] for epoch, values in sorted(by_epoch.items())],
        }
        for label, by_epoch in sorted(readings.items())
    ]


def _masks(folder: Path, records: list[RunRecord], labels: dict[str, str]) -> list[dict[str, str]]:
    """One run's picture for each label that has one; controls hide nothing."""
    pictures: dict[str, dict[str, str]] = {}
    for record in records:
        path, label = folder / "runs" / record.run_id / "masks.png", labels[record.run_id]
        if label in pictures or len(pictures) == MAX_PICTURES or record.strategy["name"] == "none":
            continue
        try:
            small = read_picture(path)
        except FileNotFoundError:
            continue
        except (OSError, NotPlain) as reason:
            print_message(f"skipped {path}: {getattr(reason, 'strerror', None) or reason}")
            continue
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=80)
        pictures[label] = {"label": label, "uri": _uri("webp", buffer.getvalue())}
    return list(pictures.values())


def read_picture(path: Path) -> Image.Image:
    """A run's masks.png, made small. OSError where it cannot be read, NotPlain where it is no PNG of a bounded size, or
    a link: the page is passed on, and shows nothing that lies elsewhere."""
    content = read_regular_file(path, MAX_PICTURE_BYTES, follow_link=False)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PICTURE_PIXELS:
                raise NotPlain(f"it has {image.width} x {image.height} pixels, more than any picture of masks")
            small = image.convert("RGB")
            small.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    except NotPlain:
        raise
    except Exception as error:  # a damaged file makes Pillow raise many kinds
        raise NotPlain(f"it is no picture ({type(error).__name__})") from None
    return small


def _run(record: RunRecord, metric: str, folder: Path) -> dict[str, Any]:
    accuracy, wall = record.metrics.get(metric), record.metrics.get("cost/wall_s")
    return {
        "id": record.run_id,
        "seed": record.seed,
        "status": record.status,
        "error": record.error or "",
        "warnings": record.warnings,
        "accuracy": "–" if accuracy is None else f"{100 * accuracy:.1f}",
        "wall": "–" if wall is None else f"{wall:.0f}",
        "rerun": shlex.join(["maskbench", "rerun", str(folder / "runs" / record.run_id), *_plugin_option(record)]),
    }


def _plugin_option(record: RunRecord) -> list[str]:
    """--plugin FILE for a strategy of the user's own."""
    plugin = record.strategy_plugin
    return [] if plugin is None else ["--plugin", plugin]


def _machine(record: RunRecord) -> dict[str, Any]:
    """Hardware and versions, without what is unknown."""
    return {key: value for key, value in record.environment.items() if value is not None}


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{path}.")
        elif path not in NOT_SHARED and value is not None:
            flat[path] = json.dumps(value, ensure_ascii=False)
    return flat


def _lines(settings: dict[str, str]) -> str:
    return "\n".join(f"{path}: {value}" for path, value in sorted(settings.items()))
