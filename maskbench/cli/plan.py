"""`maskbench plan`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maskbench.cli.options import Plugins, load_plugins
from maskbench.errors import UsageError


def plan(
    suite: Annotated[str, typer.Option(metavar="NAME|FILE", help="See `list suites`.")],
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or on a CPU processes.")] = 1,
    per_run: Annotated[int, typer.Option("--devices-per-run", min=1, help="That share a run.")] = 1,
    step: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Of `bench step --json` on such a device; measured here if not given."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Of train, where the data are not at hand.")] = None,
    test_images: Annotated[int, typer.Option(min=0, help="Likewise.")] = 0,
    image_kb: Annotated[float, typer.Option(min=0, help="Of an encoded image, where data are streamed.")] = 0.0,
    link_gbit: Annotated[float, typer.Option(min=0.001, help="Between devices that share a run.")] = 200.0,
    seeds: Annotated[str | None, typer.Option(help="0,1,2 or 0-4; the suite's if not given.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The suite's if not given.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=c, any setting; repeatable.")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Time, storage and network of a suite on other machines, before anything is run.

    Arithmetic is counted on the models that the suite asks for. What a device does of it in a second comes from `bench
    step` there, or from a few steps of every kind of run here, on the suite's own data.
    """
    from maskbench.config.schema import assignments
    from maskbench.config.suite import read_suite
    from maskbench.sweeps.capacity_plan import Fleet, Forecaster, read_step, told

    load_plugins(plugin)
    if images is not None and step is None:
        raise UsageError(
            "without data nothing can be measured here: add --step FILE.json of `maskbench bench step --json`"
        )
    name, read = read_suite(suite)
    if seeds is not None:
        from maskbench.config.schema import parse_seeds

        read = read.model_copy(update={"seeds": parse_seeds(seeds)})
    over: dict[str, Any] = {"data.dataset": dataset} if dataset is not None else {}
    over |= assignments(set_ or [])
    fleet = Fleet(devices, per_run, link_gbit * 1e9 / 8, image_kb * 1e3)
    forecaster = Forecaster(fleet, None if step is None else read_step(step), images, test_images, plugin or [])
    found = forecaster(name, read, over)
    print(json.dumps(found, indent=1) if as_json else told(found))
