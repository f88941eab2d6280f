"""`maskbench table` and `maskbench plot`: files made from records."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maskbench.commands.options import writing


class Format(StrEnum):
    md = "md"
    csv = "csv"
    json = "json"


def tables_of(folder: Path) -> dict[str, str]:
    from maskbench.analysis.results import load_results
    from maskbench.analysis.tables import write_tables

    return writing(folder, lambda: write_tables(load_results(folder), folder / "tables"))


def figures_of(folder: Path) -> list[Path]:
    from maskbench.analysis.plots import write_figures
    from maskbench.analysis.results import frame, read_records

    records = read_records(folder)
    return writing(folder, lambda: write_figures(records, frame(records), folder / "figures"))


def table(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format_: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.md,
) -> None:
    """Write every table of a results folder to DIR/tables, and print one."""
    print(tables_of(folder)[format_], end="")


def plot(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")]) -> None:
    """Draw every figure of a results folder to DIR/figures, and print their paths."""
    for path in figures_of(folder):
        print(path)
