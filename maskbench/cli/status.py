"""`maskbench status`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskbench.cli.shared_options import AsJson
from maskbench.runtime.escaping import dump_json, escape_control
from maskbench.runtime.standard_streams import print_data

if TYPE_CHECKING:
    from maskbench.runs.status import Status


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    as_json: AsJson = False,
) -> None:
    """Show which runs are queued, running, done or failed.

    From any machine that sees the folder.
    """
    from tabulate import tabulate

    from maskbench.runs.status import STATES, read_statuses, summarise

    found = read_statuses(folder)
    if as_json:
        print_data(dump_json([asdict(each) for each in found], indent=1))
        return
    ordered = sorted(found, key=lambda each: STATES.index(each.state))
    if found:
        headers = ["run", "state", "trained", "minutes left", "where", ""]
        print_data(tabulate([_row(each) for each in ordered], headers, disable_numparse=True), end="\n\n")
    print_data(summarise(found))


def _row(each: "Status") -> list[Any]:
    share = f"{each.step / each.steps:.0%}" if each.step is not None and each.steps else ""
    left = "" if each.left_s is None else f"{each.left_s / 60:.1f}"
    return [escape_control(str(cell)) for cell in (each.run_id, each.state, share, left, each.where, each.note)]
