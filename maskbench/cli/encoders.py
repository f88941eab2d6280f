"""`maskbench probe` and `export`: what is done with an encoder that is there."""

from pathlib import Path
from typing import Annotated, Any

import typer

from maskbench.cli.options_from_settings import SettingOptions
from maskbench.cli.pretrained_settings import external_settings
from maskbench.cli.run import show_results
from maskbench.cli.shared_options import (
    AsJson,
    Assignments,
    Plugins,
    folder_name,
    load_plugins,
    print_resume_command,
    write_under,
)
from maskbench.config.resolve import merge, parse_assignments, parse_config, parse_seeds
from maskbench.errors import UsageError
from maskbench.runtime.standard_streams import print_data

SETTINGS = SettingOptions(
    "data.dataset",
    "probes",
    "data.data_dir",
    "data.limit",
    "data.img_size",
    "data.in_chans",
    "system.device",
    "system.precision",
)


def probe(
    encoder: Annotated[
        str, typer.Argument(metavar="ENCODER", help="A run's folder, a file of weights, or a timm name.")
    ],
    settings: Annotated[dict[str, Any], SETTINGS],
    model: Annotated[
        str | None, typer.Option(help="timm VisionTransformer that the weights fit. Default: by their shapes.")
    ] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads, which weights do not tell.")] = None,
    seeds: Annotated[str, typer.Option(help="0,1,2 or 0-4, for probes that train something.")] = "0",
    set_: Assignments = None,
    output: Annotated[
        Path, typer.Option(parser=folder_name, metavar="DIR", help="Results folder; may hold runs to compare with.")
    ] = Path("results/probe"),
    force: Annotated[bool, typer.Option("--force", help="Repeat finished probes.")] = False,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Probe any encoder as runs are probed.

    Its record stands in tables beside those of runs, marked external. --dataset is required.
    """
    from maskbench.models.encoder_sources import read_encoder
    from maskbench.runs.reporter import Terminal
    from maskbench.runs.run import run_all

    if "data.dataset" not in settings:
        raise UsageError("name the data to probe on, e.g. --dataset ./photos")
    load_plugins(plugin)
    reporter, pretrained = Terminal(), read_encoder(encoder)
    if pretrained.assumed is not None:
        reporter.note(pretrained.assumed)
    of_encoder = external_settings(pretrained, encoder, model, heads, settings.get("data.in_chans"))
    merged = merge({"probes": "knn,linear", **merge({}, of_encoder)}, {**settings, "output": str(output)})
    merged = merge(merged, parse_assignments(set_ or []))
    configs = [parse_config({**merged, "seed": seed}) for seed in parse_seeds(seeds)]
    with print_resume_command():
        records = run_all(configs, force=force, reporter=reporter)
    show_results(output, records, reporter, as_json)
    if any(record.status != "complete" for record in records):
        raise typer.Exit(1)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    output: Annotated[
        Path | None, typer.Option(parser=folder_name, metavar="DIR", help="Folder to write. Default: RUN/export.")
    ] = None,
) -> None:
    """Write a run's encoder as a folder that timm loads.

    It needs no maskbench and has a model card. Prints the path.
    """
    from maskbench.runs.export import export

    print_data(write_under(output or run, lambda: export(run, output)))
