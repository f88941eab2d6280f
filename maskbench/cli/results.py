"""`maskbench table`, `plot`, `report` and `compare`: what is made from records."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskbench.cli.shared_options import AsJson, folder_name, write_under
from maskbench.runtime.atomic_files import ensure_no_link
from maskbench.runtime.escaping import dump_json, print_message
from maskbench.runtime.standard_streams import print_data

if TYPE_CHECKING:
    from maskbench.analysis.results import Results


class Format(StrEnum):
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"
    html = "html"


def tables_of(folder: Path) -> dict[str, str]:
    """Write all tables of a results folder; the comparison by format."""
    from maskbench.analysis.results import read_results
    from maskbench.analysis.tables import write_tables

    ensure_no_link(folder / "tables")
    results = read_results(folder)
    return write_under(folder, lambda: write_tables(results, folder / "tables"))


def figures_of(folder: Path) -> list[Path]:
    """Write all figures of a results folder; their paths."""
    from maskbench.analysis.figures import write_figures
    from maskbench.analysis.results import read_results

    ensure_no_link(folder / "figures")
    results = read_results(folder)
    return write_under(folder, lambda: write_figures(results, folder / "figures"))


def read_some_results(folder: Path, baseline: str | None = None) -> "Results":
    """A results folder. UsageError where no record in it can be read, or where it has no row `baseline`."""
    from maskbench.analysis.results import read_results
    from maskbench.errors import UsageError, unknown_name
    from maskbench.record import ensure_records

    ensure_records(folder)
    results = read_results(folder)
    if not results.records:
        raise UsageError(f"no record in {folder} can be read, and nothing is written; upgrade maskbench, or run again")
    if baseline is not None and baseline not in set(results.frame["label"]):
        raise unknown_name("baseline", baseline, set(results.frame["label"]))
    return results


Baseline = Annotated[
    str | None,
    typer.Option(help="Row that others are compared with. Default: random. Files in DIR keep the default."),
]


def table(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format_: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.md,
    baseline: Baseline = None,
    output: Annotated[
        Path | None, typer.Option(parser=folder_name, metavar="DIR", help="Folder for the files. Default: DIR/tables.")
    ] = None,
) -> None:
    """Write all tables to DIR/tables, and print one.

    With another --baseline the table is only printed, for files in DIR to stay the same; --output writes them all.
    """
    from maskbench.analysis.metrics import BASELINE
    from maskbench.analysis.tables import render_comparison, write_tables

    results = read_some_results(folder, baseline)
    if output is None and baseline in (None, BASELINE):
        output = folder / "tables"
        ensure_no_link(output)
    if output is None:
        texts = render_comparison(results, baseline or BASELINE)
        print_message(f"printed only; --output FOLDER writes the tables against {baseline}")
    else:
        place = output
        texts = write_under(place, lambda: write_tables(results, place, baseline or BASELINE))
    print_data(texts["tex" if format_ == Format.latex else format_], end="")


def plot(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")]) -> None:
    """Draw all figures into DIR/figures, and print their paths."""
    read_some_results(folder)
    for path in figures_of(folder):
        print_data(path)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    baseline: Baseline = None,
) -> None:
    """Write one self-contained page, DIR/report.html.

    It holds all tables and figures, what they show in words, and every run. Prints the path. Also writes DIR/tables and
    DIR/figures, except with another --baseline.
    """
    from maskbench.analysis.metrics import BASELINE
    from maskbench.analysis.report import write_report

    results = read_some_results(folder, baseline)
    if baseline in (None, BASELINE):
        tables_of(folder)
        figures_of(folder)
    print_data(write_under(folder, lambda: write_report(results, folder / "report.html", baseline or BASELINE)))


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A results folder, or a paper's CSV: strategy, metrics.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="A results folder.")],
    as_json: AsJson = False,
) -> None:
    """Say what differs between two results folders.

    Strategy by strategy, and whether by more than noise.
    """
    from dataclasses import asdict

    from maskbench.analysis.results_diff import as_markdown, compare_results

    changes = compare_results(first, second)
    if as_json:
        print_data(dump_json([asdict(change) for change in changes], indent=1))
    else:
        print_data(as_markdown(changes), end="")
