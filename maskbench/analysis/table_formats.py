"""Sections of rows as text: Markdown, CSV, LaTeX, JSON, HTML."""

from collections.abc import Callable, Sequence

import pandas as pd
from tabulate import tabulate

from maskbench.analysis.sections import Column, Section
from maskbench.runtime.escaping import dump_json, escape_csv, escape_html, escape_latex, escape_markdown

NOT_IN_CSV = ("label", "control", "best")  # the label has a column of its own, the others are for layout


def _title(section: Section) -> str:
    about = f"{section.about}: " if section.about else ""
    return about + section.group.replace(" | ", "; ")


def _cells(
    section: Section, columns: list[Column], bold: Callable[[str], str], escape: Callable[[str], str]
) -> list[list[str]]:
    """The body, a row a list of texts, its name first."""
    body = []
    for place, row in enumerate(section.rows):
        cells = [escape(row.name)]
        for column in columns:
            text = escape(column.cells[place] or "–")
            cells.append(bold(text) if row.is_best and column.decides else text)
        body.append(cells)
    return body


def as_markdown(sections: Sequence[Section]) -> str:
    """The tables to read."""
    return "\n".join(map(_markdown, sections)) or "No records.\n"


def _markdown(section: Section) -> str:
    columns = section.filled_columns()
    headings = [escape_markdown(column.heading) for column in columns]
    table = tabulate(
        _cells(section, columns, "**{}**".format, escape_markdown),
        headers=[escape_markdown(section.row_heading), *headings],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(headings)],
    )
    return f"**{escape_markdown(_title(section))}**\n\n{table}\n\n{escape_markdown(' '.join(section.notes))}\n"


def as_csv(sections: Sequence[Section]) -> str:
    """One line for each row, numbers with seven digits; gaps are empty. No text begins as a formula does."""
    lines = []
    for section in sections:
        for row in section.rows:
            line = {"group": section.group, section.row_heading: row.label}
            for name, value in row.to_json().items():
                if isinstance(value, dict):
                    line |= {name if key == "mean" else f"{name}/{key}": number for key, number in value.items()}
                elif name not in NOT_IN_CSV:
                    line[name] = value
            lines.append({escape_csv(name): _escape_if_text(value) for name, value in line.items()})
    order = dict.fromkeys(key for line in lines for key in line)
    text: str = pd.DataFrame(lines, columns=list(order)).to_csv(index=False, lineterminator="\n")
    return text


def _escape_if_text(value: object) -> object:
    return escape_csv(value) if isinstance(value, str) else value


def as_json(sections: Sequence[Section]) -> str:
    """The sections with everything that they hold."""
    return dump_json([section.to_json() for section in sections], indent=1) + "\n"


def as_latex(sections: Sequence[Section]) -> str:
    """A table environment for each section, accuracies above costs; needs the packages booktabs and graphicx."""
    return "\n".join(map(_latex, sections)) or "% No records.\n"


def _latex(section: Section) -> str:
    columns = section.filled_columns()
    parts = [[column for column in columns if column.is_cost == is_cost] for is_cost in (False, True)]
    tables = "\n\\medskip\n\n".join(_tabular(section, part) for part in parts if part)
    caption = escape_latex(f"{_title(section)}. {' '.join(section.notes)}")
    return (
        "% needs \\usepackage{booktabs,graphicx}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{caption}}}\n{tables}\\end{{table}}\n"
    )


def _tabular(section: Section, columns: list[Column]) -> str:
    """One tabular, shrunk to the width of the line where it is wider."""
    headings = " & ".join(escape_latex(name) for name in (section.row_heading, *(column.heading for column in columns)))
    rows = _cells(section, columns, "\\textbf{{{}}}".format, escape_latex)
    body = "".join(f"{' & '.join(cells)} \\\\\n" for cells in rows)
    return (
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}\n\\toprule\n"
        f"{headings} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}}}\n"
    )


def as_html(sections: Sequence[Section]) -> str:
    """Tables without style, to put into another page; everything from records is escaped."""
    return "\n".join(map(_html, sections)) or "<p>No records.</p>\n"


def _html(section: Section) -> str:
    columns = section.filled_columns()
    headings = "".join(f"<th>{escape_html(column.heading)}</th>" for column in columns)
    rows = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        for name, *cells in _cells(section, columns, "<strong>{}</strong>".format, escape_html)
    )
    return (
        f"<table>\n<caption>{escape_html(_title(section))}</caption>\n"
        f"<thead><tr><th>{escape_html(section.row_heading)}</th>{headings}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"
        f"<p>{escape_html(' '.join(section.notes))}</p>\n"
    )


FORMATS: dict[str, Callable[[Sequence[Section]], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "tex": as_latex,
    "json": as_json,
    "html": as_html,
}
