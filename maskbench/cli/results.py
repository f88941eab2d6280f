"""`maskbench table` and `maskbench plot`: files made from records."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maskbench.cli.options import writing


class Format(StrEnum):
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"
    html = "html"


def tables_of(folder: Path, baseline: str | None = None) -> dict[str, str]:
    from maskbench.analysis.comparison import BASELINE
    from maskbench.analysis.results import read_results
    from maskbench.analysis.write_tables import write_tables
    from maskbench.errors import unknown

    results = read_results(folder)
    if baseline is not None and results.records and baseline not in set(results.frame["label"]):
        raise unknown("baseline", baseline, set(results.frame["label"]))
    return writing(folder, lambda: write_tables(results, folder / "tables", baseline or BASELINE))


def figures_of(folder: Path, baseline: str | None = None) -> list[Path]:
    from maskbench.analysis.comparison import BASELINE
    from maskbench.analysis.figures import write_figures
    from maskbench.analysis.results import read_results

    results = read_results(folder)
    return writing(folder, lambda: write_figures(results, folder / "figures", baseline or BASELINE))


def table(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format_: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.md,
    baseline: Annotated[
        str | None, typer.Option(help="Row that others are compared with; random if there is one.")
    ] = None,
) -> None:
    """Write every table of a results folder to DIR/tables, and print one."""
    print(tables_of(folder, baseline)["tex" if format_ == Format.latex else format_], end="")


def plot(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")]) -> None:
    """Draw every figure of a results folder to DIR/figures, and print their paths."""
    for path in figures_of(folder):
        print(path)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    baseline: Annotated[
        str | None, typer.Option(help="Row that others are compared with; random if there is one.")
    ] = None,
) -> None:
    """Write DIR/report.html, one self-contained page, with all tables and figures, and print its path."""
    from maskbench.analysis.comparison import BASELINE
    from maskbench.analysis.report import write_report
    from maskbench.analysis.results import read_results

    tables_of(folder, baseline)
    figures_of(folder, baseline)
    results = read_results(folder)
    print(writing(folder, lambda: write_report(results, folder / "report.html", baseline or BASELINE)))


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A results folder, or a paper's CSV: strategy, metrics.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="A results folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What changed from A to B, strategy by strategy, and whether by more than noise."""
    import json

    from maskbench.analysis.results_diff import as_markdown, compared

    rows = compared(first, second)
    print(json.dumps(rows, indent=1) if as_json else as_markdown(rows), end="\n" if as_json else "")
