"""Comparison tables as text: Markdown, CSV, LaTeX, JSON, HTML."""

import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from maskbench.analysis.comparison import BASELINE, METRICS, UNFINISHED, comparison, heading
from maskbench.storage import write_atomically

Row = dict[str, Any]
Section = dict[str, Any]
MINUS = "−"


@dataclass(frozen=True)
class Column:
    """A column for reading: its heading, and the text of a row's cell, None where there is nothing to say."""

    heading: str
    cell: Callable[[Row], str | None]


def columns_of(section: Section) -> list[Column]:
    """Those that have something to say in some row."""
    columns = [Column("n", lambda row: str(row["n"]))]
    columns += [Column(heading(metric), _accuracy(metric)) for metric in METRICS]
    columns += [
        Column(f"Δ {section['baseline']}", _difference),
        Column("p", _p),
        Column("group", lambda row: row.get("letters")),
        Column("images/s", _cost("cost/images_per_s", "{:.0f}")),
        Column("mask share", _cost("cost/mask_share", "{:.1f} %", 100)),
        Column("MiB", _cost("cost/peak_memory_mib", "{:.0f}")),
        Column("GFLOPs/image", _cost("cost/gflops_per_image", "{:.3f}")),
        Column("realised ratio", _cost("realised_ratio_mean", "{:.3f}")),
    ]
    return [column for column in columns if any(column.cell(row) is not None for row in section["rows"])]


def _accuracy(metric: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        if metric not in row:
            return None
        value = row[metric]
        half = "" if value["low"] is None else f" ± {100 * (value['high'] - value['low']) / 2:.1f}"
        return f"{100 * value['mean']:.1f}{half}"

    return cell


def _difference(row: Row) -> str | None:
    if "difference" not in row:
        return None
    found = row["difference"]
    interval = "" if found["low"] is None else f" [{_signed(found['low'])}, {_signed(found['high'])}]"
    return f"{_signed(found['mean'])}{interval}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", MINUS)


def _p(row: Row) -> str | None:
    p = row.get("difference", {}).get("p_holm")
    return None if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cost(name: str, form: str, scale: float = 1) -> Callable[[Row], str | None]:
    return lambda row: form.format(scale * row[name]["mean"]) if name in row else None


def _name(row: Row) -> str:
    unfinished = ", ".join(f"{row[status]} {status}" for status in UNFINISHED if row[status])
    return f"{row['label']} ({unfinished})" if unfinished else row["label"]


def _title(section: Section) -> str:
    return str(section["group"].replace(" | ", "; "))


def _cells(section: Section, bold: Callable[[str], str], escape: Callable[[str], str] = str) -> list[list[str]]:
    """The body, a row a list of texts: name first, the deciding metric of the best group in bold."""
    body = []
    for row in section["rows"]:
        cells = [escape(_name(row))]
        for column in columns_of(section):
            text = escape(column.cell(row) or "–")
            cells.append(bold(text) if row.get("best") and column.heading == heading(section["metric"]) else text)
        body.append(cells)
    return body


def as_markdown(sections: list[Section]) -> str:
    """The table to read."""
    return "\n".join(map(_markdown, sections)) or "No records.\n"


def _markdown(section: Section) -> str:
    headings = [column.heading for column in columns_of(section)]
    table = tabulate(
        _cells(section, "**{}**".format),
        headers=["strategy", *headings],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(headings)],
    )
    return f"**{_title(section)}**\n\n{table}\n\n{' '.join(section['notes'])}\n"


def as_csv(sections: list[Section]) -> str:
    """One line a row, numbers unrounded but for platform noise; gaps are empty."""
    lines = []
    for section in sections:
        for row in section["rows"]:
            line = {"group": section["group"], "strategy": row["label"]}
            line |= {count: row[count] for count in ("n", *UNFINISHED)}
            for name, value in row.items():
                if isinstance(value, dict):
                    line |= {name if key == "mean" else f"{name}/{key}": number for key, number in value.items()}
            lines.append({**line, "letters": row.get("letters")})
    order = dict.fromkeys(key for line in lines for key in line)
    text: str = pd.DataFrame(lines, columns=list(order)).to_csv(index=False, lineterminator="\n")
    return text


def as_json(sections: list[Section]) -> str:
    """The sections as they are."""
    return json.dumps(sections, indent=1) + "\n"


_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        MINUS: "$-$",
        "–": "--",
        "<": "$<$",
        ">": "$>$",
    }
)


def as_latex(sections: list[Section]) -> str:
    """A table environment a section; needs the package booktabs."""
    return "\n".join(map(_latex, sections)) or "% No records.\n"


def _latex(section: Section) -> str:
    def escape(text: str) -> str:
        return text.translate(_LATEX)

    columns = columns_of(section)
    headings = " & ".join(escape(name) for name in ("strategy", *(column.heading for column in columns)))
    body = "".join(f"{' & '.join(cells)} \\\\\n" for cells in _cells(section, "\\textbf{{{}}}".format, escape))
    caption = escape(f"{_title(section)}. {' '.join(section['notes'])}")
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{caption}}}\n\\begin{{tabular}}{{l{'r' * len(columns)}}}\n\\toprule\n"
        f"{headings} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def as_html(sections: list[Section]) -> str:
    """Tables without style, for a page of one's own; everything from records is escaped."""
    return "\n".join(map(_html, sections)) or "<p>No records.</p>\n"


def _html(section: Section) -> str:
    headings = "".join(f"<th>{html.escape(column.heading)}</th>" for column in columns_of(section))
    rows = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        for name, *cells in _cells(section, "<strong>{}</strong>".format, html.escape)
    )
    return (
        f"<table>\n<caption>{html.escape(_title(section))}</caption>\n"
        f"<thead><tr><th>strategy</th>{headings}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
        f"<p>{html.escape(' '.join(section['notes']))}</p>\n"
    )


FORMATS: dict[str, Callable[[list[Section]], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "tex": as_latex,
    "json": as_json,
    "html": as_html,
}


def write_tables(results: pd.DataFrame, folder: Path, baseline: str = BASELINE) -> dict[str, str]:
    """Every format to `folder`/comparison.<format>; the texts by format."""
    sections = comparison(results, baseline)
    texts = {name: render(sections) for name, render in FORMATS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / f"comparison.{name}", text)
    return texts
