"""Comparison tables: rows are what was compared, a section for each group that may be compared."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from maskbench.storage import write_atomically

SMOKE_TEST = "Generated data: a smoke test of the pipeline, not evidence about strategies."


@dataclass(frozen=True)
class Column:
    """A column of the table: the record's key, the heading, and how a number is shown."""

    key: str
    heading: str
    show: Callable[[float], str]
    spread: bool = False  # mean and standard deviation over seeds


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


COLUMNS = (
    Column("knn/top1/cls", "k-NN cls", _percent, spread=True),
    Column("knn/top1/mean", "k-NN mean", _percent, spread=True),
    Column("linear/top1/cls", "linear cls", _percent, spread=True),
    Column("linear/top1/mean", "linear mean", _percent, spread=True),
    Column("cost/images_per_s", "images/s", lambda value: f"{value:.0f}"),
    Column("cost/mask_share", "mask share", lambda value: f"{100 * value:.1f} %"),
    Column("cost/gflops_per_image", "GFLOPs/image", lambda value: f"{value:.3f}"),
    Column("realised_ratio_mean", "realised ratio", lambda value: f"{value:.3f}"),
)
ORDER_BY = "linear/top1/mean"
UNFINISHED = ("failed", "diverged")


def comparison(results: pd.DataFrame) -> list[dict[str, Any]]:
    """A section a group: {"group", "dataset", "machines", "rows"}; a row is {"label", "n", "failed", "diverged", and
    for each column's key {"mean", "sd"}} over complete runs. random-init first, supervised last, the rest by ORDER_BY.
    """
    sections = []
    for group, members in results.groupby("group", sort=True):
        rows = [_row(str(label), runs) for label, runs in members.groupby("label", sort=True)]
        rows.sort(key=_rank)
        sections.append(
            {
                "group": group,
                "dataset": members["dataset"].iloc[0],
                "machines": sorted(set(members["machine"])),
                "rows": rows,
            }
        )
    return sections


def _row(label: str, runs: pd.DataFrame) -> dict[str, Any]:
    complete = runs[runs["status"] == "complete"]
    row: dict[str, Any] = {"label": label, "n": len(complete)}
    row |= {status: int((runs["status"] == status).sum()) for status in UNFINISHED}
    for column in COLUMNS:
        values = complete[column.key].dropna() if column.key in complete else pd.Series(dtype=float)
        if len(values):
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            row[column.key] = {"mean": _stable(values.mean()), "sd": None if spread is None else _stable(spread)}
    return row


def _rank(row: dict[str, Any]) -> tuple[int, float, str]:
    place = {"random-init": 0, "supervised": 2}.get(row["label"].split(" ")[0], 1)
    return place, -row.get(ORDER_BY, {"mean": -1.0})["mean"], row["label"]


def _stable(value: float) -> float:
    """Seven digits: enough for any reader, and the same on every platform."""
    return float(f"{value:.7g}")


def as_markdown(sections: list[dict[str, Any]]) -> str:
    """The table to read."""
    return "\n".join(_markdown(section) for section in sections) or "No records.\n"


def _markdown(section: dict[str, Any]) -> str:
    columns = [column for column in COLUMNS if any(column.key in row for row in section["rows"])]
    body = [[_name(row), row["n"], *(_cell(row, column) for column in columns)] for row in section["rows"]]
    table = tabulate(
        body,
        headers=["strategy", "n", *(column.heading for column in columns)],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * (len(columns) + 1)],
    )
    spread = " ± standard deviation" if any(row["n"] > 1 for row in section["rows"]) else ""
    machines = ", ".join(section["machines"])
    notes = [f"Top-1 accuracy in % on test, mean over n seeds{spread}; images/s end to end on {machines}."]
    if section["dataset"] == "shapes":
        notes.append(SMOKE_TEST)
    title = section["group"].replace(" | ", "; ")
    return f"**{title}**\n\n{table}\n\n{' '.join(notes)}\n"


def _name(row: dict[str, Any]) -> str:
    unfinished = ", ".join(f"{row[status]} {status}" for status in UNFINISHED if row[status])
    return f"{row['label']} ({unfinished})" if unfinished else row["label"]


def _cell(row: dict[str, Any], column: Column) -> str:
    if column.key not in row:
        return "–"
    value = row[column.key]
    if column.spread and value["sd"] is not None:
        return f"{column.show(value['mean'])} ± {column.show(value['sd'])}"
    return column.show(value["mean"])


def as_csv(sections: list[dict[str, Any]]) -> str:
    """One line a row, numbers unrounded but for platform noise; gaps are empty."""
    lines = []
    for section in sections:
        for row in section["rows"]:
            line = {"group": section["group"], "strategy": row["label"]}
            line |= {count: row[count] for count in ("n", *UNFINISHED)}
            for column in COLUMNS:
                value = row.get(column.key, {"mean": None, "sd": None})
                line[column.key] = value["mean"]
                if column.spread:
                    line[f"{column.key}/sd"] = value["sd"]
            lines.append(line)
    text: str = pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")
    return text


def as_json(sections: list[dict[str, Any]]) -> str:
    """The sections as they are."""
    return json.dumps(sections, indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[list[dict[str, Any]]], str]] = {"md": as_markdown, "csv": as_csv, "json": as_json}


def write_tables(results: pd.DataFrame, folder: Path) -> dict[str, str]:
    """Every format to `folder`/comparison.<format>; the texts by format."""
    sections = comparison(results)
    texts = {name: render(sections) for name, render in FORMATS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / f"comparison.{name}", text)
    return texts
