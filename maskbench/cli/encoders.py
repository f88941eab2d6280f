"""`maskbench probe` and `export`: what is done with an encoder that is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskbench.cli.options import Plugins, load_plugins, resumable, writing
from maskbench.cli.run import Precision, show_results

if TYPE_CHECKING:
    from maskbench.models.pretrained import ForeignEncoder

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


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
    from maskbench.config import schema as settings_of
    from maskbench.models.pretrained import read_encoder
    from maskbench.runs.reporter import Terminal
    from maskbench.runs.run import run_all

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


def external_settings(foreign: "ForeignEncoder", source: str, model: str | None, heads: int | None) -> dict[str, Any]:
    """Settings by dotted path. Images are of the size of its positions and normalised as it was trained, by ImageNet's
    moments where nobody says how and it sees colours. model, heads: as in `model_settings`."""
    from maskbench.models.pretrained import model_settings

    grid = foreign.grid
    named = {"source": source, "label": foreign.name, "digest": foreign.digest}
    settings = {
        "strategy": "none",
        "objective": {"name": "external", "parameters": named},
        "data.img_size": list(grid.image_size),
        "data.in_chans": foreign.in_chans,
        **{f"model.{key}": value for key, value in model_settings(foreign, model, heads).items()},
    }
    if foreign.mean is not None and foreign.std is not None:
        return settings | {"data.mean": foreign.mean.tolist(), "data.std": foreign.std.tolist()}
    return settings | ({f"data.{name}": value for name, value in IMAGENET.items()} if foreign.in_chans == 3 else {})


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    output: Annotated[Path | None, typer.Option(help="Folder to write; RUN/export if not given.")] = None,
) -> None:
    """Write a run's encoder as a folder that timm loads without maskbench, with a model card, and print its path."""
    from maskbench.runs.export import export

    print(writing(output or run, lambda: export(run, output)))
