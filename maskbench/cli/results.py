"""`maskbench table` and `maskbench plot`: files made from records."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maskbench.cli.shared_options import AsJson, write_under
from maskbench.errors import UsageError


class Format(StrEnum):
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"
    html = "html"


def tables_of(folder: Path, baseline: str | None = None) -> dict[str, str]:
    from maskbench.analysis.metrics import BASELINE
    from maskbench.analysis.results import read_results
    from maskbench.analysis.tables import write_tables
    from maskbench.errors import unknown_name

    results = read_results(folder)
    if baseline is not None and results.records and baseline not in set(results.frame["label"]):
        raise unknown_name("baseline", baseline, set(results.frame["label"]))
    return write_under(folder, lambda: write_tables(results, folder / "tables", baseline or BASELINE))


def figures_of(folder: Path, baseline: str | None = None) -> list[Path]:
    from maskbench.analysis.figures import write_figures
    from maskbench.analysis.metrics import BASELINE
    from maskbench.analysis.results import read_results

    results = read_results(folder)
    return write_under(folder, lambda: write_figures(results, folder / "figures", baseline or BASELINE))


def ensure_records(folder: Path) -> None:
    """UsageError where a folder holds no record, with the names of the results folders below it."""
    from maskbench.record import record_paths

    if not folder.is_dir() or next(record_paths(folder), None) is not None:
        return  # what is missing altogether, read_results names
    patterns = ("*/runs/*/record.json", "*/*/runs/*/record.json")
    below = sorted({str(path.parents[2]) for pattern in patterns for path in folder.glob(pattern)})
    some = f"give one of {', '.join(below)}" if below else f"run `maskbench run --output {folder}` first"
    raise UsageError(f"no records in {folder}, nothing is written; {some}")


def table(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format_: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.md,
    baseline: Annotated[str | None, typer.Option(help="Row that others are compared with. Default: random.")] = None,
) -> None:
    """Write all tables to DIR/tables, and print one."""
    ensure_records(folder)
    print(tables_of(folder, baseline)["tex" if format_ == Format.latex else format_], end="")


def plot(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")]) -> None:
    """Draw all figures into DIR/figures, and print their paths."""
    ensure_records(folder)
    for path in figures_of(folder):
        print(path)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    baseline: Annotated[str | None, typer.Option(help="Row that others are compared with. Default: random.")] = None,
) -> None:
    """Write one self-contained page, DIR/report.html.

    It holds all tables and figures, what they show in words, and every run. Prints the path.
    """
    from maskbench.analysis.metrics import BASELINE
    from maskbench.analysis.report import write_report
    from maskbench.analysis.results import read_results

    ensure_records(folder)
    tables_of(folder, baseline)
    figures_of(folder, baseline)
    results = read_results(folder)
    print(write_under(folder, lambda: write_report(results, folder / "report.html", baseline or BASELINE)))


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A results folder, or a paper's CSV: strategy, metrics.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="A results folder.")],
    as_json: AsJson = False,
) -> None:
    """Say what differs between two results folders.

    Strategy by strategy, and whether by more than noise.
    """
    import json
    from dataclasses import asdict

    from maskbench.analysis.results_diff import as_markdown, compare_results

    changes = compare_results(first, second)
    if as_json:
        print(json.dumps([asdict(change) for change in changes], indent=1))
    else:
        print(as_markdown(changes), end="")
