"""`maskbench rerun`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskbench.cli.options_from_settings import SettingOptions
from maskbench.cli.shared_options import CheckpointEvery, Plugins, folder_name, load_plugins, print_resume_command
from maskbench.runtime.standard_streams import print_data

if TYPE_CHECKING:
    from maskbench.runs.rerun import Verdict


def rerun(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A record.json, or the folder that holds it.")],
    settings: Annotated[
        dict[str, Any], SettingOptions("data.dataset", "data.probe_dataset", "data.data_dir", "system.device")
    ],
    output: Annotated[
        Path, typer.Option(parser=folder_name, metavar="DIR", help="Results folder of the repetition.")
    ] = Path("results/rerun"),
    checkpoint_every: CheckpointEvery = None,
    plugin: Plugins = None,
) -> None:
    """Repeat a stored run and say whether its numbers hold.

    To the last digit on the same kind of machine with the same versions, else within the interval of its test set. Exit
    code 1 if they do not. Relative paths of data are looked for from here, then from the folders above the record.
    --dataset, --probe-dataset, --data-dir and --device say where the data lie and what to use here; default: the
    record's.
    """
    from maskbench.runs.reporter import Terminal
    from maskbench.runs.rerun import rerun

    load_plugins(plugin)
    with print_resume_command():
        verdict = rerun(record, settings, output, Terminal(), checkpoint_every)
    print_data(_format_verdict(verdict), end="")
    if not verdict.holds:
        raise typer.Exit(1)


def _format_verdict(verdict: "Verdict") -> str:
    from tabulate import tabulate

    rows = [
        (check.name, check.stored, check.repeated, check.low, check.high, "holds" if check.holds else "DOES NOT HOLD")
        for check in verdict.checks
    ]
    headers = ["number", "stored", "repeated", "lowest", "highest", ""]
    table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".6g")
    if verdict.differences:
        how = f"Accuracies within the record's 95 % interval, because {'; '.join(verdict.differences)}."
    else:
        how = "To the last digit: the same kind of machine and the same versions."
    kept = sum(check.holds for check in verdict.checks)
    return f"{table}\n\n{kept} of {len(verdict.checks)} numbers hold. {how}\n"
