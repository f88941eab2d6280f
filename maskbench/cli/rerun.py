"""`maskbench rerun`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskbench.cli.options import Plugins, load_plugins, resumable

if TYPE_CHECKING:
    from maskbench.runs.reproduce import Verdict


def rerun(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A record.json, or the folder that holds it.")],
    dataset: Annotated[str | None, typer.Option(help="Where the record's data are here.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where torch/NAME data sets are kept.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the record's if not given.")] = None,
    output: Annotated[Path, typer.Option(help="Results folder of the repetition.")] = Path("results/rerun"),
    checkpoint_every: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="300, or more where writing would take over 1 %.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Repeat a stored run and say whether its numbers hold: to the last digit on the same kind of machine with the same
    versions, else within the interval of its test set. Exit code 1 if they do not."""
    from maskbench.runs.reporter import Terminal
    from maskbench.runs.reproduce import rerun

    load_plugins(plugin)
    given = {"data.dataset": dataset, "data.data_dir": data_dir, "system.device": device}
    changes = {name: value for name, value in given.items() if value is not None}
    with resumable():
        verdict = rerun(record, changes, output, Terminal(), checkpoint_every)
    print(_told(verdict), end="")
    if not verdict.holds:
        raise typer.Exit(1)


def _told(verdict: "Verdict") -> str:
    from tabulate import tabulate

    rows = [
        (claim.name, claim.stored, claim.repeated, claim.low, claim.high, "holds" if claim.holds else "DOES NOT HOLD")
        for claim in verdict.claims
    ]
    headers = ["number", "stored", "repeated", "lowest", "highest", ""]
    table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".6g")
    if verdict.elsewhere:
        how = f"Accuracies within the record's 95 % interval, because {'; '.join(verdict.elsewhere)}."
    else:
        how = "To the last digit: the same kind of machine and the same versions."
    kept = sum(claim.holds for claim in verdict.claims)
    return f"{table}\n\n{kept} of {len(verdict.claims)} numbers hold. {how}\n"
