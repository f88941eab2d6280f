"""`maskbench probe` and `export`: what is done with an encoder that is there."""

from pathlib import Path
from typing import Annotated

import typer

from maskbench.commands.options import Plugins, load_plugins, resumable, writing
from maskbench.commands.run import Precision, show_results


def probe(
    encoder: Annotated[
        str, typer.Argument(metavar="ENCODER", help="A run's folder, a file of weights, or a timm name.")
    ],
    dataset: Annotated[str, typer.Option(help="shapes, torch/NAME, hfds/NAME, wds/FOLDER, or a path.")],
    probes: Annotated[str, typer.Option(help="NAME[:key=value...],...")] = "knn,linear",
    data_dir: Annotated[str | None, typer.Option(help="Where torch/ and hfds/ data are kept, or wds/ lies.")] = None,
    limit: Annotated[int | None, typer.Option(help="Number of training images kept, stratified.")] = None,
    model: Annotated[str | None, typer.Option(help="timm VisionTransformer that the weights fit; guessed.")] = None,
    heads: Annotated[int | None, typer.Option(help="Of the attention, which weights do not tell.")] = None,
    img_size: Annotated[str | None, typer.Option(help="224 or 160x224; that of its positions if not given.")] = None,
    seeds: Annotated[str, typer.Option(help="0,1,2 or 0-4, for probes that train something.")] = "0",
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=c, any setting, e.g. data.mean=[0,0,0].")] = None,
    output: Annotated[Path, typer.Option(help="Results folder, perhaps one with runs of ours.")] = Path(
        "results/probe"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    precision: Annotated[Precision, typer.Option()] = Precision.auto,
    force: Annotated[bool, typer.Option("--force", help="Repeat what is done.")] = False,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records, not the table.")] = False,
) -> None:
    """Ask any encoder what runs are asked; its record stands in tables beside theirs, marked external."""
    from maskbench import config as settings_of
    from maskbench.external import external_settings
    from maskbench.foreign import read_encoder
    from maskbench.pipeline import run_all
    from maskbench.reporter import Terminal

    load_plugins(plugin)
    flags = {
        "data.dataset": dataset,
        "data.data_dir": data_dir,
        "data.limit": limit,
        "data.img_size": img_size,
        "probes": probes,
        "output": str(output),
        "system.device": device,
        "system.precision": str(precision),
    }
    settings = external_settings(read_encoder(encoder), encoder, model, heads)
    given = {path: value for path, value in flags.items() if value is not None}
    settings = settings_of.merge(settings_of.merge({}, settings), given)
    settings = settings_of.merge(settings, settings_of.assignments(set_ or []))
    configs = [settings_of.parse({**settings, "seed": seed}) for seed in settings_of.parse_seeds(seeds)]
    reporter = Terminal()
    with resumable():
        records = run_all(configs, force=force, reporter=reporter)
    show_results(output, records, reporter, as_json)
    if any(record.status != "complete" for record in records):
        raise typer.Exit(1)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    output: Annotated[Path | None, typer.Option(help="Folder to write; RUN/export if not given.")] = None,
) -> None:
    """Write a run's encoder as a folder that timm loads without maskbench, with a model card, and print its path."""
    from maskbench.export import export

    print(writing(output or run, lambda: export(run, output)))
