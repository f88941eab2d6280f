"""Sections of rows as text: Markdown, CSV, LaTeX, JSON, HTML."""

import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

Row = dict[str, Any]
Section = dict[str, Any]  # "group", "rows", each with a "label", "notes"; "about", where it is not the comparison
MINUS = "−"
UNFINISHED = ("failed", "diverged", "missing")
FOR_LAYOUT = ("label", "control", "best")


@dataclass(frozen=True)
class Column:
    """A column for reading: its heading, and the text of a row's cell, None where there is nothing to say. Bold in the
    best rows where it `decides`; about `cost`, it goes into a second part where a page is narrow."""

    heading: str
    cell: Callable[[Row], str | None]
    decides: bool = False
    cost: bool = False


Columns = Callable[[Section], list[Column]]


def spoken(section: Section, columns: Columns) -> list[Column]:
    """Those columns that have something to say in some row."""
    return [column for column in columns(section) if any(column.cell(row) is not None for row in section["rows"])]


def of(section: Section) -> str:
    """What its rows are."""
    return str(section.get("of", "strategy"))


def signed(share: float) -> str:
    """A difference of accuracies in points, with a real minus."""
    return f"{100 * share:+.1f}".replace("-", MINUS)


def _name(row: Row) -> str:
    unfinished = ", ".join(f"{row[status]} {status}" for status in UNFINISHED if row.get(status))
    return f"{row['label']} ({unfinished})" if unfinished else str(row["label"])


def _title(section: Section) -> str:
    about = f"{section['about']}: " if "about" in section else ""
    return about + str(section["group"]).replace(" | ", "; ")


def _cells(
    section: Section, columns: list[Column], bold: Callable[[str], str], escape: Callable[[str], str] = str
) -> list[list[str]]:
    """The body, a row a list of texts: name first."""
    body = []
    for row in section["rows"]:
        cells = [escape(_name(row))]
        for column in columns:
            text = escape(column.cell(row) or "–")
            cells.append(bold(text) if row.get("best") and column.decides else text)
        body.append(cells)
    return body


def as_markdown(sections: list[Section], columns: Columns) -> str:
    """The table to read."""
    return "\n".join(_markdown(section, spoken(section, columns)) for section in sections) or "No records.\n"


def _markdown(section: Section, columns: list[Column]) -> str:
    headings = [column.heading for column in columns]
    table = tabulate(
        _cells(section, columns, "**{}**".format),
        headers=[of(section), *headings],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(headings)],
    )
    return f"**{_title(section)}**\n\n{table}\n\n{' '.join(section['notes'])}\n"


def as_csv(sections: list[Section], _: Columns) -> str:
    """One line a row, numbers unrounded but for platform noise; gaps are empty."""
    lines = []
    for section in sections:
        for row in section["rows"]:
            line = {"group": section["group"], of(section): row["label"]}
            for name, value in row.items():
                if isinstance(value, dict):
                    line |= {name if key == "mean" else f"{name}/{key}": number for key, number in value.items()}
                elif name not in FOR_LAYOUT:
                    line[name] = value
            lines.append(line)
    order = dict.fromkeys(key for line in lines for key in line)
    text: str = pd.DataFrame(lines, columns=list(order)).to_csv(index=False, lineterminator="\n")
    return text


def as_json(sections: list[Section], _: Columns) -> str:
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


def as_latex(sections: list[Section], columns: Columns) -> str:
    """A table environment a section, accuracies above costs; needs the packages booktabs and graphicx."""
    return "\n".join(_latex(section, spoken(section, columns)) for section in sections) or "% No records.\n"


def _latex(section: Section, columns: list[Column]) -> str:
    parts = [[column for column in columns if column.cost == cost] for cost in (False, True)]
    tables = "\n\\medskip\n\n".join(_tabular(section, part) for part in parts if part)
    caption = _for_latex(f"{_title(section)}. {' '.join(section['notes'])}")
    return (
        "% needs \\usepackage{booktabs,graphicx}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{caption}}}\n{tables}\\end{{table}}\n"
    )


def _tabular(section: Section, columns: list[Column]) -> str:
    """Shrunk to the line where it is wider."""
    headings = " & ".join(_for_latex(name) for name in (of(section), *(column.heading for column in columns)))
    rows = _cells(section, columns, "\\textbf{{{}}}".format, _for_latex)
    body = "".join(f"{' & '.join(cells)} \\\\\n" for cells in rows)
    return (
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}\n\\toprule\n"
        f"{headings} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}}}\n"
    )


def _for_latex(text: str) -> str:
    return text.translate(_LATEX)


def as_html(sections: list[Section], columns: Columns) -> str:
    """Tables without style, for a page of one's own; everything from records is escaped."""
    return "\n".join(_html(section, spoken(section, columns)) for section in sections) or "<p>No records.</p>\n"


def _html(section: Section, columns: list[Column]) -> str:
    headings = "".join(f"<th>{html.escape(column.heading)}</th>" for column in columns)
    rows = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        for name, *cells in _cells(section, columns, "<strong>{}</strong>".format, html.escape)
    )
    return (
        f"<table>\n<caption>{html.escape(_title(section))}</caption>\n"
        f"<thead><tr><th>{of(section)}</th>{headings}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
        f"<p>{html.escape(' '.join(section['notes']))}</p>\n"
    )


FORMATS: dict[str, Callable[[list[Section], Columns], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "tex": as_latex,
    "json": as_json,
    "html": as_html,
}
