"""`maskbench run`."""

import json
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskbench.cli.options import (
    CpusPerRun,
    GpusPerRun,
    Jobs,
    MemoryPerRun,
    On,
    Partition,
    Plugins,
    RayAddress,
    Regime,
    SlurmOptions,
    Time,
    given,
    load_plugins,
    resumable,
)
from maskbench.cli.results import figures_of, tables_of
from maskbench.errors import UsageError
from maskbench.runtime.launcher import launched

if TYPE_CHECKING:
    from maskbench.config import schema as settings_of
    from maskbench.record import RunRecord
    from maskbench.runs.reporter import Reporter
    from maskbench.sweeps.sweep import Campaign, Choose


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


def run(
    context: typer.Context,
    strategy: Annotated[str | None, typer.Option(help="NAME[:key=value...],... e.g. random,gmml:fill=zeros")] = None,
    regime: Annotated[
        Regime | None, typer.Option(help="paper: published defaults; matched: one ratio, exact counts.")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Hidden share in the matched regime, which it implies.")] = None,
    objective: Annotated[str | None, typer.Option(help="NAME[:key=value...]")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="shapes, torch/NAME, hfds/NAME, wds/FOLDER, or a path to Parquet files or image folders."),
    ] = None,
    probe_dataset: Annotated[str | None, typer.Option(help="Probed instead; training needs no labels.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where torch/ and hfds/ data are kept, or wds/ lies.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a torch/ or hfds/ data set if it is missing.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="timm VisionTransformer by name.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    img_size: Annotated[str | None, typer.Option(help="224 or 160x224 (rows x cols).")] = None,
    in_chans: Annotated[int | None, typer.Option(help="Image channels.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate, absolute.")] = None,
    blr: Annotated[float | None, typer.Option(help="Peak learning rate per 256 images.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option()] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    seeds: Annotated[str | None, typer.Option(help="0,1,2 or 0-4; 0 if not given.")] = None,
    limit: Annotated[int | None, typer.Option(help="Number of training images kept, stratified.")] = None,
    probes: Annotated[str | None, typer.Option(help="NAME[:key=value...],...")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings to start from; see `list presets`; quick if not given.")
    ] = None,
    suite: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="A grid of runs; see `list suites`.")] = None,
    on: On = None,
    jobs: Jobs = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    memory_per_run: MemoryPerRun = None,
    ray_address: RayAddress = None,
    partition: Partition = None,
    time: Time = None,
    slurm: SlurmOptions = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and how long, and stop.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML laid over the preset; --print-config shows the form.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=c, any setting; repeatable.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the settings and stop.")] = False,
    output: Annotated[Path | None, typer.Option(help="Results folder; results/<preset> if not given.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = None,
    precision: Annotated[Precision | None, typer.Option()] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile; off by auto.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Processes that decode streamed data; auto: a core each. 0: none."),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic", help="Only algorithms that repeat to the last digit; slower on a GPU."),
    ] = None,
    checkpoint_every: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="300, or more where writing would take over 1 %.")
    ] = None,
    track: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="tensorboard, wandb, mlflow: the curve as it is made.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat runs that are done, from the start.")] = False,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records, not the table.")] = False,
) -> None:
    """Pre-train and probe; each strategy and seed is a run. The control random-init is added to each seed. Started by
    torchrun or srun, its processes share each run."""
    from maskbench.config import schema as settings_of

    load_plugins(plugin)
    flags = given(context)
    if ratio is not None:
        flags.setdefault("regime", "matched")
    runs, tried = _asked(suite, strategy, preset, config, seeds, flags, settings_of.assignments(set_ or []))
    first = runs(None)[0]
    together = launched()
    if print_config:
        import yaml

        from maskbench.config.suite import CONTROLS

        shown = next((run for run in runs(None) if run.objective.name not in CONTROLS), first)
        print(yaml.safe_dump(shown.model_dump(mode="json"), sort_keys=False) if together.first else "", end="")
        return
    if download and together.local_rank == 0:  # the others wait where they meet
        wanted = [each.data for each in runs(None)]
        _fetch({(name, data.data_dir) for data in wanted for name in (data.dataset, data.probe_dataset) if name})
    from maskbench.executors.placement import Place
    from maskbench.runs.reporter import Reporter, Terminal
    from maskbench.runs.trackers import trackers
    from maskbench.sweeps.sweep import Campaign

    followed = track.split(",") if track else []
    trackers(followed)  # refused before anything is planned
    place = Place(on or "local", jobs, cpus_per_run, gpus_per_run, memory_per_run, ray_address, partition, time, slurm)
    if together.world > 1 and (place.at_once > 1 or not place.here):
        raise UsageError(f"{together.world} processes share each run here; drop --jobs and --on, or start one process")
    reporter = Terminal() if together.first else Reporter()
    campaign = Campaign(runs, tried, place, plugin or [], force, checkpoint_every, reporter, followed * together.first)
    if not dry_run:
        told = suite is not None and together.world == 1  # the others would wait for what the first one tries
        _carry_out(campaign, first, as_json, told=told)
    elif together.first:
        print(campaign.told())


def _fetch(places: set[tuple[str, str | None]]) -> None:
    """Download what torchvision and Hugging Face know of these data sets, each in its folder."""
    from maskbench.data import HUB, torchvision

    for name, folder in places:
        if name.startswith(torchvision.PREFIX):
            torchvision.fetch(name, folder)
        if name.startswith(HUB):
            from maskbench.data import huggingface

            huggingface.opened(name.removeprefix(HUB), folder, download=True)


def _carry_out(campaign: "Campaign", first: "settings_of.RunConfig", as_json: bool, *, told: bool) -> None:
    """Do what is not done yet and show it; exit code 1 where a run is missing or not complete. told: the plan is shown
    first."""
    from maskbench.runtime.process_group import joined

    with resumable(), joined(first.system.device):
        if told:
            campaign.summon()
            campaign.reporter.note(campaign.told())
        expected, records = campaign.carry_out()
    if launched().first:
        show_results(Path(first.output), records, campaign.reporter, as_json)
    if len(records) < expected or any(record.status != "complete" for record in records):
        raise typer.Exit(1)


def _asked(
    suite: str | None, strategy: str | None, preset: str | None, file: Path | None, seeds: str | None,
    flags: dict[str, Any], assigned: dict[str, Any],
) -> "tuple[Callable[[Choose | None], list[settings_of.RunConfig]], list[settings_of.RunConfig]]":  # fmt: skip
    """What makes the configurations, once choices are made, and the runs by which they are made: none but in a suite.
    flags: settings by their path; --set (assigned) is laid over them."""
    from maskbench.config import schema as settings_of
    from maskbench.config.suite import grid, read_suite, trials

    if suite is not None:
        if strategy or preset or file:
            raise UsageError("a suite names its strategies and settings; drop --strategy, --preset and --config")
        name, read = read_suite(suite)
        if seeds is not None:
            read = read.model_copy(update={"seeds": settings_of.parse_seeds(seeds)})
        over = {**flags, **assigned}
        return partial(grid, name, read, over), trials(name, read, over)
    preset = preset or "quick"
    settings = {"output": f"results/{preset}", **settings_of.preset(preset)}
    for over in ({} if file is None else settings_of.read_yaml(file), flags, assigned):
        settings = settings_of.merge(settings, over)
    specs = settings_of.parse_specs(strategy) if strategy else [settings.get("strategy", "random")]
    configs = settings_of.expand(settings, specs, settings_of.parse_seeds(seeds or "0"))
    return lambda _: configs, []


def show_results(output: Path, records: "list[RunRecord]", reporter: "Reporter", as_json: bool) -> None:
    """The table or the records on stdout; what was written where, and what is not complete, on stderr."""
    tables = tables_of(output)
    figures = figures_of(output)
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records]))
    else:
        print(tables["md"], end="")
        more = output / "tables" / "probes.md"  # written where there is more than the table above has room for
        print(f"\n{more.read_text()}" if more.exists() else "", end="")
    reporter.note(f"tables: {output / 'tables'}")
    if figures:
        reporter.note(f"pictures: {', '.join(str(path) for path in figures if path.suffix == '.png')}")
    if any((output / "runs" / record.run_id / "masks.png").exists() for record in records):
        reporter.note(f"masks: {output / 'runs' / '*' / 'masks.png'}")
    for record in records:
        if record.status != "complete":
            reporter.note(f"{record.run_id} {record.status}: {record.error}")
