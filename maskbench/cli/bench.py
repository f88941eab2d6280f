"""`maskbench bench`."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from maskbench.cli.options import Plugins, given, load_plugins
from maskbench.cli.run import Precision


class Bench(StrEnum):
    step = "step"
    strategies = "strategies"
    probes = "probes"


def bench(
    context: typer.Context,
    what: Annotated[Bench, typer.Argument(help="What to time.")] = Bench.strategies,
    strategy: Annotated[str | None, typer.Option(help="NAME[:key=value...]; of strategies several, or all.")] = None,
    objective: Annotated[str | None, typer.Option(help="Of step.")] = None,
    probes: Annotated[str | None, typer.Option(help="Of probes.")] = None,
    preset: Annotated[str, typer.Option(help="Of step and probes: where settings start.")] = "cifar10-cpu",
    dataset: Annotated[str | None, typer.Option(help="Of step and probes; generated images if not given.")] = None,
    images: Annotated[int, typer.Option(min=20, help="Of probes: how many are generated.")] = 5000,
    model: Annotated[str | None, typer.Option()] = None,
    img_size: Annotated[str | None, typer.Option()] = None,
    patch_size: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=c, any setting; repeatable.")] = None,
    device: Annotated[str | None, typer.Option(help="Of step and probes.")] = None,
    precision: Annotated[Precision | None, typer.Option()] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile")] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved; the median is shown.", min=1)] = 7,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Time a training step and its phases, what strategies add to one, or probes.

    strategies: microseconds an image, batch 256, one CPU thread, and the GPU if there is one, without the forward pass
    of a teacher where one is needed.
    """
    from maskbench.config import schema as settings_of

    load_plugins(plugin)
    if what == Bench.strategies:
        from maskbench.bench.strategies import print_table, time_strategies

        specs = settings_of.parse_specs(strategy) if strategy else None
        return _shown(time_strategies(specs, rounds), print_table, as_json)
    flags = {"data.dataset": "shapes", **given(context)} | ({"strategy": strategy} if strategy else {})
    settings = settings_of.merge(settings_of.preset(preset), flags)
    config = settings_of.parse(settings_of.merge(settings, settings_of.assignments(set_ or [])))
    if what == Bench.step:
        from maskbench.bench.step import print_step, time_step

        return _shown(time_step(config, rounds, generated=dataset is None), print_step, as_json)
    from maskbench.bench.probes import print_probes, time_probes

    return _shown(time_probes(config, images if dataset is None else None), print_probes, as_json)


def _shown(found: dict[str, Any], show: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found)
