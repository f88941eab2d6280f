"""`maskbench run`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from maskbench.commands.options import Plugins, Regime, load_plugins, resumable
from maskbench.commands.results import figures_of, tables_of
from maskbench.errors import UsageError


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


def run(
    strategy: Annotated[str | None, typer.Option(help="NAME[:key=value...],... e.g. random,gmml:fill=zeros")] = None,
    regime: Annotated[
        Regime | None, typer.Option(help="paper: published defaults; matched: one ratio, exact counts.")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Hidden share in the matched regime, which it implies.")] = None,
    objective: Annotated[str | None, typer.Option(help="NAME[:key=value...]")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="shapes, torch/NAME, or a path to Parquet files or image folders.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where torch/NAME data sets are kept.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch a torch/NAME data set if it is missing.")] = False,
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
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the runs.")] = 1,
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
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Only algorithms that repeat to the last digit; slower on a GPU.")
    ] = False,
    checkpoint_every: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="300, or more where writing would take over 1 %.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat runs that are done, from the start.")] = False,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records, not the table.")] = False,
) -> None:
    """Pre-train and probe; each strategy and seed is a run. The control random-init is added to each seed."""
    from maskbench import config as settings_of
    from maskbench.suite import grid, read_suite

    load_plugins(plugin)
    flags: dict[str, Any] = {
        "regime": regime or ("matched" if ratio is not None else None),
        "ratio": ratio,
        "objective": objective,
        "data.dataset": dataset,
        "data.data_dir": data_dir,
        "model.name": model,
        "model.patch_size": patch_size,
        "data.img_size": img_size,
        "data.in_chans": in_chans,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.blr": blr,
        "train.warmup_epochs": warmup_epochs,
        "train.weight_decay": weight_decay,
        "data.limit": limit,
        "probes": probes,
        "output": None if output is None else str(output),
        "system.device": device,
        "system.precision": precision,
        "system.compile": compile_,
        "system.deterministic": deterministic or None,
    }
    given = {path: value for path, value in flags.items() if value is not None}
    if suite is not None:
        if strategy or preset or config:
            raise UsageError("a suite names its strategies and settings; drop --strategy, --preset and --config")
        name, read = read_suite(suite)
        if seeds is not None:
            read = read.model_copy(update={"seeds": settings_of.parse_seeds(seeds)})
        configs = grid(name, read, {**given, **settings_of.assignments(set_ or [])})
    else:
        settings = _laid_over(preset or "quick", config, given, set_ or [])
        chosen = settings_of.parse_specs(strategy) if strategy else [settings.get("strategy", "random")]
        configs = settings_of.expand(settings, chosen, settings_of.parse_seeds(seeds or "0"))
    if print_config:
        import yaml

        print(yaml.safe_dump(configs[0].model_dump(mode="json"), sort_keys=False), end="")
        return
    if download and configs[0].data.dataset.startswith("torch/"):
        from maskbench.data.downloads import fetch

        fetch(configs[0].data.dataset, configs[0].data.data_dir)
    _run(
        configs,
        jobs,
        plugin or [],
        force,
        checkpoint_every,
        plan_first=suite is not None,
        dry_run=dry_run,
        as_json=as_json,
    )


def _laid_over(preset: str, file: Path | None, flags: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """The preset's settings under those of the file, the flags that are given, and --set, in this order."""
    from maskbench import config

    settings = {"output": f"results/{preset}", **config.preset(preset)}
    if file is not None:
        settings = config.merge(settings, config.read_yaml(file))
    settings = config.merge(settings, flags)
    return config.merge(settings, config.assignments(assignments))


def _run(
    configs: list[Any],
    jobs: int,
    plugins: list[str],
    force: bool,
    checkpoint_every: float | None,
    *,
    plan_first: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from maskbench.pipeline import run_all
    from maskbench.reporter import Terminal

    reporter = Terminal()
    if plan_first or dry_run:
        text = _told(configs, plugins)
        if dry_run:
            print(text)
            return
        reporter.note(text)
    with resumable():
        if jobs == 1:
            records = run_all(configs, force=force, reporter=reporter, checkpoint_every=checkpoint_every)
        else:
            from maskbench.executor import run_in_parallel

            records = run_in_parallel(
                configs, jobs, plugins=plugins, force=force, reporter=reporter, checkpoint_every=checkpoint_every
            )
    output = Path(configs[0].output)
    tables = tables_of(output)
    figures = figures_of(output)
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records]))
    else:
        print(tables["md"], end="")
    reporter.note(f"tables: {output / 'tables'}")
    reporter.note(f"pictures: {', '.join(str(path) for path in figures if path.suffix == '.png')}")
    reporter.note(f"masks: {output / 'runs' / '*' / 'masks.png'}")
    unfinished = [record for record in records if record.status != "complete"]
    for record in unfinished:
        reporter.note(f"{record.run_id} {record.status}: {record.error}")
    if unfinished or len(records) < len(configs):
        raise typer.Exit(1)


def _told(configs: list[Any], plugins: list[str]) -> str:
    """Which runs there are, what is done of them, and about how long the rest takes."""
    from tabulate import tabulate

    from maskbench.estimate import expect
    from maskbench.executor import tried_out
    from maskbench.pipeline import checked

    expected = expect([checked(config) for config in configs], tried_out(plugins))
    rows: dict[tuple[str, str], list[Any]] = {}
    for each in expected:
        planned = each.planned
        row = rows.setdefault((planned.label, planned.run_id.rpartition("-s")[0]), [planned.label, 0, 0, 0, 0.0])
        row[1] += 1
        row[2] += each.state == "done"
        row[3] += each.state == "started"
        row[4] = "?" if each.seconds is None or row[4] == "?" else row[4] + each.seconds / 60
    table = tabulate(list(rows.values()), ["strategy", "runs", "done", "started", "minutes left"], floatfmt=".1f")
    left = sum(each.seconds or 0 for each in expected)
    done = sum(each.state == "done" for each in expected)
    return (
        f"{table}\n{len(expected)} runs for {configs[0].output}, {done} done; the rest takes about {left / 60:.0f} "
        f"minutes of this machine, one after another"
    )
