"""`maskbench bench`."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from maskbench.cli.options_from_settings import SettingOptions
from maskbench.cli.shared_options import AsJson, Assignments, Plugins, load_plugins
from maskbench.config.resolve import load_preset, merge, parse_assignments, parse_config
from maskbench.config.specs import parse_specs
from maskbench.runtime.escaping import dump_json
from maskbench.runtime.standard_streams import print_data

SETTINGS = SettingOptions(
    "objective",
    "probes",
    "data.dataset",
    "data.img_size",
    "model.name",
    "model.patch_size",
    "train.batch_size",
    "system.device",
    "system.precision",
    "system.compile",
)


class Bench(StrEnum):
    step = "step"
    strategies = "strategies"
    probes = "probes"


def bench(
    settings: Annotated[dict[str, Any], SETTINGS],
    what: Annotated[Bench, typer.Argument(help="What to time.")] = Bench.strategies,
    strategy: Annotated[
        str | None, typer.Option(help="NAME[:key=value...]: one for step; for strategies several. Default: all.")
    ] = None,
    preset: Annotated[str, typer.Option(help="step, probes: settings to start from.")] = "cifar10-cpu",
    set_: Assignments = None,
    images: Annotated[int, typer.Option(min=20, help="probes: how many images to generate.")] = 5000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the median is shown.")] = 7,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Time a training step, strategies or probes.

    strategies: microseconds per image, batch 256, on one CPU thread, and on the GPU if there is one, without the
    teacher's forward pass where a strategy needs one. step and probes use generated images unless --dataset is given.
    """
    load_plugins(plugin)
    if what == Bench.strategies:
        from maskbench.bench.strategies import print_strategies, time_strategies

        specs = parse_specs(strategy) if strategy else None
        return _print(time_strategies(specs, rounds), print_strategies, as_json)
    generated = "data.dataset" not in settings
    flags = {"data.dataset": "shapes", **settings} | ({"strategy": strategy} if strategy else {})
    config = parse_config(merge(merge(load_preset(preset), flags), parse_assignments(set_ or [])))
    if what == Bench.step:
        from maskbench.bench.step import print_step, time_step

        return _print(time_step(config, rounds, generated=generated), print_step, as_json)
    from maskbench.bench.probes import print_probes, time_probes

    return _print(time_probes(config, images if generated else None), print_probes, as_json)


def _print(figures: Any, print_table: Any, as_json: bool) -> None:
    if as_json:
        print_data(dump_json(asdict(figures), indent=1))
    else:
        print_table(figures)
