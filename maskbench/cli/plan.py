"""`maskbench plan`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskbench.cli.options_from_settings import SettingOptions
from maskbench.cli.shared_options import AsJson, Assignments, Plugins, finite, load_plugins
from maskbench.config.resolve import parse_assignments, parse_seeds
from maskbench.config.suite import read_suite
from maskbench.errors import UsageError
from maskbench.runtime.escaping import dump_json
from maskbench.runtime.standard_streams import print_data

if TYPE_CHECKING:
    from maskbench.sweeps.workload import DevicePool

MACHINES, DATA = "Machines", "Data"


@dataclass(frozen=True)
class FleetOptions:
    """The machines to plan for."""

    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on CPUs.", rich_help_panel=MACHINES)] = 1
    devices_per_run: Annotated[int, typer.Option(min=1, help="Devices that share a run.", rich_help_panel=MACHINES)] = 1
    link_gbit: Annotated[
        float,
        typer.Option(
            min=0.001, callback=finite, help="Gbit/s between devices that share a run.", rich_help_panel=MACHINES
        ),
    ] = 200.0
    image_kb: Annotated[
        float,
        typer.Option(
            min=0, callback=finite, help="kB of an encoded image, where data are streamed.", rich_help_panel=DATA
        ),
    ] = 0.0

    def device_pool(self) -> "DevicePool":
        from maskbench.sweeps.workload import DevicePool

        return DevicePool(self.devices, self.devices_per_run, self.link_gbit * 1e9 / 8, self.image_kb * 1e3)


def plan(
    suite: Annotated[str, typer.Option(metavar="NAME|FILE", help="The suite; see `list suites`.")],
    settings: Annotated[dict[str, Any], SettingOptions("data.dataset")],
    machines: FleetOptions,
    step: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Output of `bench step --json` on such a device. Default: measured here.",
            rich_help_panel=MACHINES,
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Training images, if the data are not here.", rich_help_panel=DATA)
    ] = None,
    test_images: Annotated[
        int, typer.Option(min=0, help="Test images, if the data are not here.", rich_help_panel=DATA)
    ] = 0,
    seeds: Annotated[str | None, typer.Option(help="0,1,2 or 0-4. Default: the suite's.")] = None,
    set_: Assignments = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Predict time and storage of a suite on other machines.

    Arithmetic is counted on the models of the suite. How much of it a device does per second comes from `bench step`
    there, or from a few steps of every kind of run here, on the suite's own data.
    """
    from maskbench.sweeps.capacity_plan import CapacityPlanner, format_plan
    from maskbench.sweeps.workload import read_measured_step

    load_plugins(plugin)
    if images is not None and step is None:
        raise UsageError(
            "without data nothing can be measured here: add --step FILE.json of `maskbench bench step --json`"
        )
    name, read = read_suite(suite)
    if seeds is not None:
        read = read.model_copy(update={"seeds": parse_seeds(seeds)})
    overrides = {**settings, **parse_assignments(set_ or [])}
    measured = None if step is None else read_measured_step(step)
    planner = CapacityPlanner(machines.device_pool(), measured, images, test_images, plugin or [])
    forecast = planner.plan(name, read, overrides)
    print_data(dump_json(asdict(forecast), indent=1) if as_json else format_plan(forecast))
