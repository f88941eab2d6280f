"""One page that tells the story of a results folder: self-contained, readable without a network or JavaScript."""

import base64
import hashlib
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import yaml
from PIL import Image

from maskbench._version import __version__
from maskbench.analysis import across_datasets, epochs_to_baseline, probe_table, test_set_uncertainty, tuning_table
from maskbench.analysis.comparison import BASELINE, comparison, groups
from maskbench.analysis.figures import drawn
from maskbench.analysis.figures.learning_curves import ONLINE
from maskbench.analysis.figures.style import RC, Looks, looks
from maskbench.analysis.findings import findings
from maskbench.analysis.results import Results
from maskbench.analysis.table_formats import Columns, Section, of, spoken
from maskbench.analysis.write_tables import columns_of
from maskbench.record import RunRecord
from maskbench.runtime.atomic_files import write_atomically

GALLERY = 40  # pictures of masks at most
PICTURE = 800  # pixels
ALT = {
    "accuracy-against-cost": "Accuracy of the linear probe against images per second",
    "differences": "Paired differences from the baseline with intervals",
    "accuracy-against-ratio": "Accuracy against the share that is hidden",
    "diagnostics": "What the masks look like against accuracy",
    "learning-curves": "Online k-NN accuracy on validation images by epoch",
    "learning-curves-time": "Online k-NN accuracy on validation images by seconds of training",
    "learning-curves-flops": "Online k-NN accuracy on validation images by computation",
    "data-sets": "Accuracy of every strategy on every data set",
}
# What is said for each run, or nowhere.
ELSEWHERE = ("seed", "output", "data.data_dir", "data.memory_gib", "system.device", "system.workers")


def write_report(results: Results, path: Path, baseline: str = BASELINE) -> Path:
    """Write the page; its path."""
    write_atomically(path, page(results, baseline))
    return path


def page(results: Results, baseline: str = BASELINE) -> str:
    """The page as HTML. Everything that comes from records is escaped."""
    look = looks(results.frame["label"]) if results.records else {}
    sections = comparison(results.frame, baseline, results.trials) if results.records else []
    pictures = _figures(results, baseline, len(sections))
    groups = [_group(results, section, look, pictures.get(number, [])) for number, section in enumerate(sections, 1)]
    others: list[tuple[list[Section], Columns]] = [
        (across_datasets.sections(results, baseline), across_datasets.columns_of),
        (epochs_to_baseline.sections(results, baseline), epochs_to_baseline.columns_of),
        (test_set_uncertainty.sections(results, baseline), test_set_uncertainty.columns_of),
        (tuning_table.sections(results), tuning_table.columns_of),
        (probe_table.sections(results), probe_table.columns_of),
    ]
    script, style = _asset("report.js"), _asset("report.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("report.html.jinja")).render(
        title=results.folder.resolve().name,
        folder=str(results.folder),
        groups=groups,
        across=pictures.get(0, []),
        others=[_table(section, columns) for shown, columns in others for section in shown],
        runs=len(results.records),
        versions=sorted({record.environment.get("versions", {}).get("maskbench", "?") for record in results.records}),
        version=__version__,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _asset(name: str) -> str:
    return resources.files("maskbench.templates").joinpath(name).read_text()


def _group(results: Results, section: Section, look: Looks, figures: list[dict[str, str]]) -> dict[str, Any]:
    """Everything about the runs that may be compared."""
    members = dict(groups(results.frame))[section["group"]]
    by_id = {record.run_id: record for record in results.records}
    labels = dict(zip(members["run_id"], members["label"], strict=True))
    records = [by_id[run_id] for run_id in members["run_id"]]
    flat = {record.run_id: _flat(record.config) for record in records}
    shared = dict(set.intersection(*({*each.items()} for each in flat.values())))
    rows: dict[str, Any] = {}
    for record in records:
        own = {path: value for path, value in flat[record.run_id].items() if path not in shared}
        rows.setdefault(labels[record.run_id], {"settings": _lines(own), "runs": []})["runs"].append(
            _run(record, section["metric"], results.folder)
        )
    machines = {json.dumps(_machine(record), sort_keys=True): _machine(record) for record in records}
    return {
        **_table(section, columns_of),
        "findings": findings(section),
        "figures": figures,
        "curves": _curves(records, labels, look),
        "masks": _masks(results.folder, records, labels),
        "rows": rows,
        "shared": _lines(shared),
        "machines": [yaml.safe_dump(machine, sort_keys=False, allow_unicode=True) for machine in machines.values()],
    }


def _table(section: Section, columns: Columns) -> dict[str, Any]:
    """Headings and cells as text; the deciding cells of the best rows are marked."""
    shown = spoken(section, columns)
    body = []
    for row in section["rows"]:
        cells = [
            {"text": column.cell(row) or "–", "best": bool(row.get("best") and column.decides)} for column in shown
        ]
        body.append({"label": row["label"], "control": row.get("control", False), "cells": cells})
    return {
        "about": section.get("about", "Comparison"),
        "of": of(section),
        "parts": section["group"].split(" | "),
        "headings": [column.heading for column in shown],
        "body": body,
        "notes": section["notes"],
    }


def _figures(results: Results, baseline: str, groups: int) -> dict[int, list[dict[str, str]]]:
    """SVG images by number of group; 0: across groups."""
    found: dict[int, list[dict[str, str]]] = {}
    with matplotlib.rc_context(RC):
        for name, figure in drawn(results, baseline):
            stem, _, number = name.rpartition("-")
            numbered = number.isdigit()
            kind = stem if numbered else name
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
            place = 0 if kind == "data-sets" else int(number) if numbered else 1
            image = {"name": kind, "alt": ALT[kind], "uri": _uri("svg+xml", buffer.getvalue())}
            found.setdefault(place, []).append(image)
    return found


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _curves(records: list[RunRecord], labels: dict[str, str], look: Looks) -> list[dict[str, Any]]:
    """Mean online readings by epoch of each label, for the page's own chart."""
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
    """The picture of one run of each label, where it is there; controls hide nothing."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        path, label = folder / "runs" / record.run_id / "masks.png", labels[record.run_id]
        if label in found or len(found) == GALLERY or record.strategy["name"] == "none" or not path.exists():
            continue
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((PICTURE, PICTURE))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=80)
        found[label] = {"label": label, "uri": _uri("webp", buffer.getvalue())}
    return list(found.values())


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
        "again": f"maskbench rerun {folder / 'runs' / record.run_id}",
    }


def _machine(record: RunRecord) -> dict[str, Any]:
    """What the run was made with, without what every run has of its own."""
    return {key: value for key, value in record.environment.items() if value is not None}


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{path}.")
        elif path not in ELSEWHERE and value is not None:
            flat[path] = json.dumps(value, ensure_ascii=False)
    return flat


def _lines(settings: dict[str, str]) -> str:
    return "\n".join(f"{path}: {value}" for path, value in sorted(settings.items()))
