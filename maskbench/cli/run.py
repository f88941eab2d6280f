"""`maskbench run`."""

import shlex
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskbench.cli.options_from_settings import SECTIONS, SettingOptions
from maskbench.cli.pretrained_settings import init_settings
from maskbench.cli.results import figures_of, tables_of
from maskbench.cli.shared_options import (
    AsJson,
    Assignments,
    CheckpointEvery,
    Plugins,
    finite,
    load_plugins,
    print_resume_command,
)
from maskbench.config.resolve import expand_runs, load_preset, merge, parse_assignments, parse_seeds, read_yaml
from maskbench.config.run_set import FixedRuns, RunSet, SuiteRuns
from maskbench.config.settings import RunConfig
from maskbench.config.specs import parse_specs
from maskbench.config.suite import CONTROLS, read_suite
from maskbench.errors import UsageError
from maskbench.runtime.escaping import dump_json
from maskbench.runtime.launcher import detect_launch
from maskbench.runtime.standard_streams import print_data

if TYPE_CHECKING:
    from maskbench.executors.placement import Placement
    from maskbench.record import RunRecord
    from maskbench.runs.reporter import Reporter
    from maskbench.sweeps.sweep import Sweep

WHAT, WHERE, HOW = SECTIONS[RunConfig], "Where runs happen", "Execution"


@dataclass(frozen=True)
class Selection:
    """What to run: a suite, or strategies and seeds under a preset, a file and single settings."""

    strategy: Annotated[
        str | None,
        typer.Option(
            help="Strategies to compare: NAME[:key=value...],... e.g. random,gmml:fill=zeros", rich_help_panel=WHAT
        ),
    ] = None
    seeds: Annotated[
        str | None, typer.Option(help="0,1,2 or 0-4. Default: that of --config, else 0.", rich_help_panel=WHAT)
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(help="Settings to start from (see `list presets`). Default: quick.", rich_help_panel=WHAT),
    ] = None
    suite: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="A grid of runs (see `list suites`).", rich_help_panel=WHAT),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Settings over the preset, as --print-config writes them.",
            rich_help_panel=WHAT,
        ),
    ] = None
    init: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            help="Start from a run's folder, a file of weights or a timm name. Default: random weights.",
            rich_help_panel=WHAT,
        ),
    ] = None
    set_: Assignments = None

    def expand(self, options: dict[str, Any]) -> RunSet:
        """The runs, given the settings of other options by path. `--set` has the last word."""
        assigned = parse_assignments(self.set_ or [])
        if self.init is not None:
            options = init_settings(self.init, options)
        if self.suite is not None:
            return self._expand_suite({**options, **assigned})
        preset = self.preset or "quick"
        settings = {"output": f"results/{preset}", **load_preset(preset)}
        for over in ({} if self.config is None else read_yaml(self.config), options, assigned):
            settings = merge(settings, over)
        specs = parse_specs(self.strategy) if self.strategy is not None else [settings.get("strategy", "random")]
        seeds = [settings.get("seed", 0)] if self.seeds is None else parse_seeds(self.seeds)
        return FixedRuns(expand_runs(settings, specs, seeds))

    def _expand_suite(self, overrides: dict[str, Any]) -> RunSet:
        assert self.suite is not None
        if self.strategy or self.preset or self.config:
            raise UsageError("a suite names its strategies and settings; drop --strategy, --preset and --config")
        name, suite = read_suite(self.suite)
        if self.seeds is not None:
            suite = suite.model_copy(update={"seeds": parse_seeds(self.seeds)})
        return SuiteRuns(name, suite, overrides)


@dataclass(frozen=True)
class PlaceOptions:
    """Where runs happen, and what each may use there."""

    on: Annotated[
        str | None,
        typer.Option(metavar="local|ray|slurm", help="Where runs happen. Default: local.", rich_help_panel=WHERE),
    ] = None
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Runs at the same time. Default: 1 here, as many as fit on a cluster.", rich_help_panel=WHERE
        ),
    ] = None
    cpus_per_run: Annotated[
        int | None,
        typer.Option(min=1, help="ray, slurm: cores of a run, and its threads. Default: 1.", rich_help_panel=WHERE),
    ] = None
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            min=0, callback=finite, help="ray, slurm: GPUs of a run; on ray also 0.25.", rich_help_panel=WHERE
        ),
    ] = None
    memory_per_run: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=finite, metavar="GIB", help="ray, slurm: memory of a run.", rich_help_panel=WHERE
        ),
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Ray cluster. Default: RAY_ADDRESS, else one started here.", rich_help_panel=WHERE
        ),
    ] = None
    partition: Annotated[
        str | None, typer.Option(help="slurm: partition, as sbatch takes it.", rich_help_panel=WHERE)
    ] = None
    time: Annotated[
        str | None,
        typer.Option(
            help="slurm: time limit, as sbatch takes it. Longer runs are requeued. Default: 4:00:00.",
            rich_help_panel=WHERE,
        ),
    ] = None
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="slurm: any option of sbatch. Repeatable.", rich_help_panel=WHERE),
    ] = None

    def placement(self) -> "Placement":
        """UsageError for an unknown executor, and for flags that do not apply to it."""
        from maskbench.executors.placement import Placement

        on, *rest = astuple(self)
        return Placement(on or "local", *rest)


@dataclass(frozen=True)
class Execution:
    """How runs are carried out; none of it changes a result."""

    checkpoint_every: CheckpointEvery = None
    track: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Send the curve to tensorboard, wandb or mlflow.",
            rich_help_panel=HOW,
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Repeat finished runs from the start.", rich_help_panel=HOW)
    ] = False
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a missing torch/ or hfds/ data set.", rich_help_panel=HOW)
    ] = False
    plugin: Plugins = None

    @property
    def tracker_names(self) -> list[str]:
        """Names of the trackers. UsageError for one that is unknown or not installed."""
        from maskbench.runs.trackers import create_trackers

        names = self.track.split(",") if self.track else []
        create_trackers(names)
        return names


def run(
    selection: Selection,
    settings: Annotated[dict[str, Any], SettingOptions()],
    where: PlaceOptions,
    execution: Execution,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and how long, and stop.")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the settings and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pre-train and probe; each strategy and seed is a run.

    The control random-init is added for each seed. Processes that torchrun or srun starts share each run. The table
    goes to stdout; --json prints the records instead.
    """
    load_plugins(execution.plugin)
    if settings.get("ratio") is not None:
        settings.setdefault("regime", "matched")
    run_set = selection.expand(settings)
    if print_config:
        _print_config(run_set)
        return
    if execution.download:
        _download(run_set)
    sweep = _sweep(run_set, where.placement(), execution)
    if not dry_run:
        # With several processes the others would wait for the steps that the plan measures.
        describe = selection.suite is not None and detect_launch().world_size == 1
        _run_sweep(sweep, run_set.runs()[0], as_json, describe=describe)
    elif detect_launch().is_rank0:
        print_data(sweep.describe_plan())


def _print_config(run_set: RunSet) -> None:
    """The first run that is not a control, as YAML."""
    import yaml

    if detect_launch().is_rank0:
        runs = run_set.runs()
        shown = next((run for run in runs if run.objective.name not in CONTROLS), runs[0])
        print_data(yaml.safe_dump(shown.model_dump(mode="json"), sort_keys=False), end="")


def _download(run_set: RunSet) -> None:
    """Fetch what torchvision and Hugging Face know of the data sets: once a machine, while its other processes wait."""
    from maskbench.data import download_dataset

    if detect_launch().local_rank:
        return
    wanted = [config.data for config in run_set.runs()]
    for name, folder in {
        (name, data.data_dir) for data in wanted for name in (data.dataset, data.probe_dataset) if name
    }:
        download_dataset(name, folder)


def _sweep(run_set: RunSet, placement: "Placement", execution: Execution) -> "Sweep":
    from maskbench.runs.reporter import Reporter, Terminal
    from maskbench.sweeps.sweep import Sweep

    world, first = detect_launch().world_size, detect_launch().is_rank0
    if world > 1 and (placement.concurrent_runs > 1 or not placement.is_local):
        raise UsageError(f"{world} processes share each run here; drop --jobs and --on, or start one process")
    trackers = execution.tracker_names
    return Sweep(
        run_set,
        placement,
        execution.plugin or [],
        execution.force,
        execution.checkpoint_every,
        Terminal() if first else Reporter(),
        trackers * first,
    )


def _run_sweep(sweep: "Sweep", first: RunConfig, as_json: bool, *, describe: bool) -> None:
    """Execute the unfinished runs and show the results. Exit code 1 where a run is missing or incomplete.

    describe: show the plan first.
    """
    from maskbench.runtime.process_group import join_process_group

    with print_resume_command(), join_process_group(first.system.device):
        if describe:
            sweep.start_workers()
            sweep.reporter.note(sweep.describe_plan())
        expected, records = sweep.run()
    if detect_launch().is_rank0:
        show_results(Path(first.output), records, sweep.reporter, as_json)
    if len(records) < expected or any(record.status != "complete" for record in records):
        raise typer.Exit(1)


def show_results(output: Path, records: "list[RunRecord]", reporter: "Reporter", as_json: bool) -> None:
    """The table or the records on stdout; where files are, and which runs are incomplete, on stderr."""
    tables = tables_of(output)
    figures = figures_of(output)
    if as_json:
        print_data(dump_json([record.model_dump(mode="json") for record in records]))
    else:
        print_data(tables["md"], end="")
        more = output / "tables" / "probes.md"  # written where there is more than the table above has room for
        print_data("\n" + more.read_text(encoding="utf-8") if more.exists() else "", end="")
    reporter.note(f"tables: {output / 'tables'}")
    if figures:
        reporter.note(f"pictures: {', '.join(str(path) for path in figures if path.suffix == '.png')}")
    if any((output / "runs" / record.run_id / "masks.png").exists() for record in records):
        reporter.note(f"masks: {output / 'runs' / '*' / 'masks.png'}")
    incomplete = [f"{record.run_id} {record.status}" for record in records if record.status != "complete"]
    if incomplete:
        reporter.note(f"not complete: {', '.join(incomplete)}; maskbench status {shlex.quote(str(output))} says why")
