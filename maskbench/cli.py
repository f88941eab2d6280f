"""The command line: parsing only. Data goes to stdout, everything else to stderr; exit 0, 1 failed run, 2 usage."""

import json
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from maskbench import __version__
from maskbench.errors import UsageError, unknown

app = typer.Typer(
    name="maskbench",
    help="Compare ways of hiding or degrading images for pre-training vision transformers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


INTERRUPTED = 130  # a shell's code for Ctrl-C


def main() -> None:
    """Run the command line; mistakes are one line on stderr."""
    warnings.showwarning = lambda message, *_, **__: print(f"maskbench: {message}", file=sys.stderr)
    usage_error: Any = typer.BadParameter.__bases__[0]  # click's, which recent typer carries inside itself
    code: Any
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        code = _say(str(error), 2)
    except usage_error as error:
        message = error.format_message()
        code = 2 if "no_args" in type(error).__name__.lower() or not message else _say(message, 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # which is also what some versions of typer return for Ctrl-C
        _say("interrupted", code)
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str, code: int) -> int:
    print(f"maskbench: {' '.join(message.split())}", file=sys.stderr)
    return code


class Regime(StrEnum):
    paper = "paper"
    matched = "matched"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Format(StrEnum):
    md = "md"
    csv = "csv"
    json = "json"


Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE.py|MODULE", help="Strategies of your own; repeatable.")
]


def _load(plugins: list[str] | None) -> list[str]:
    from maskbench.strategy import REGISTRY

    return [name for plugin in plugins or [] for name in REGISTRY.load(plugin)]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
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
    seeds: Annotated[str, typer.Option(help="0,1,2 or 0-4")] = "0",
    limit: Annotated[int | None, typer.Option(help="Number of training images kept, stratified.")] = None,
    probes: Annotated[str | None, typer.Option(help="NAME[:key=value...],...")] = None,
    preset: Annotated[str, typer.Option(help="Settings to start from; see `list presets`.")] = "quick",
    config: Annotated[
        Path | None, typer.Option(help="YAML laid over the preset; --print-config shows the form.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=c, any setting; repeatable.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the settings and stop.")] = False,
    output: Annotated[Path | None, typer.Option(help="Results folder; results/<preset> if not given.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = None,
    precision: Annotated[Precision | None, typer.Option()] = None,
    compile_: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile; off by auto.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat runs that are done.")] = False,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records, not the table.")] = False,
) -> None:
    """Pre-train and probe; each strategy and seed is a run. The control random-init is added to each seed."""
    from maskbench import config as settings_of

    _load(plugin)
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
    }
    settings: dict[str, Any] = {"output": f"results/{preset}", **settings_of.preset(preset)}
    if config is not None:
        settings = settings_of.merge(settings, settings_of.read_yaml(config))
    settings = settings_of.merge(settings, {path: value for path, value in flags.items() if value is not None})
    settings = settings_of.merge(settings, settings_of.assignments(set_ or []))
    chosen = settings_of.parse_specs(strategy) if strategy else [settings.get("strategy", "random")]
    configs = settings_of.expand(settings, chosen, settings_of.parse_seeds(seeds))
    if print_config:
        import yaml

        print(yaml.safe_dump(configs[0].model_dump(mode="json"), sort_keys=False), end="")
        return
    if download and configs[0].data.dataset.startswith("torch/"):
        from maskbench.data.downloads import fetch

        fetch(configs[0].data.dataset, configs[0].data.data_dir)
    _run(configs, force, as_json)


def _run(configs: list[Any], force: bool, as_json: bool) -> None:
    from maskbench.pipeline import run_all
    from maskbench.reporter import Terminal

    reporter = Terminal()
    records = run_all(configs, force=force, reporter=reporter)
    output = Path(configs[0].output)
    tables = _write_tables(output)
    figures = _write_figures(output)
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records]))
    else:
        print(tables["md"], end="")
    reporter.note(f"tables: {output / 'tables'}")
    reporter.note(f"pictures: {', '.join(str(path) for path in figures if path.suffix == '.png')}")
    reporter.note(f"masks: {output / 'runs' / '*' / 'masks.png'}")
    if any(record.status != "complete" for record in records):
        raise typer.Exit(1)


def _write_tables(folder: Path) -> dict[str, str]:
    from maskbench.analysis.results import load_results
    from maskbench.analysis.tables import write_tables

    return _writing(folder, lambda: write_tables(load_results(folder), folder / "tables"))


def _write_figures(folder: Path) -> list[Path]:
    from maskbench.analysis.plots import write_figures
    from maskbench.analysis.results import frame, read_records

    records = read_records(folder)
    return _writing(folder, lambda: write_figures(records, frame(records), folder / "figures"))


def _writing(folder: Path, write: Any) -> Any:
    try:
        return write()
    except OSError as error:
        raise UsageError(f"cannot write under {folder}: {error.strerror}; free space or change permissions") from None


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
    format_: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.md,
) -> None:
    """Write every table of a results folder to DIR/tables, and print one."""
    print(_write_tables(folder)[format_], end="")


@app.command()
def plot(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")]) -> None:
    """Draw every figure of a results folder to DIR/figures, and print their paths."""
    for path in _write_figures(folder):
        print(path)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="strategies, objectives, probes, datasets or presets.")] = "strategies",
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show what there is. Plugins that fail to import are named on stderr and disturb nothing."""
    from maskbench import catalogue

    _load(plugin)
    if kind not in catalogue.KINDS:
        raise unknown("kind", kind, catalogue.KINDS)
    entries, broken = catalogue.KINDS[kind]()
    if as_json:
        if kind == "strategies":
            catalogue.with_diagnostics(entries)
        print(json.dumps(entries, indent=1))
    else:
        width = max(len(entry["name"]) for entry in entries)
        for entry in entries:
            marked = "(experimental) " if entry.get("experimental") else ""
            print(f"{entry['name']:{width}}  {marked}{entry['summary']}")
    for module, reason in broken.items():
        print(f"maskbench: {module} is broken: {reason}", file=sys.stderr)


@app.command()
def show(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Strategies, as for run --strategy.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every strategy, what the encoder sees alone.")] = False,
    dataset: Annotated[str, typer.Option(help="shapes, or a path.")] = "shapes",
    img_size: Annotated[str, typer.Option(help="224 or 160x224 (rows x cols).")] = "64",
    patch_size: Annotated[int, typer.Option(help="Pixels.")] = 8,
    regime: Annotated[Regime, typer.Option()] = Regime.paper,
    ratio: Annotated[float | None, typer.Option(help="Hidden share in the matched regime, which it implies.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    plugin: Plugins = None,
    images: Annotated[int, typer.Option(help="Images drawn.", min=1, max=32)] = 8,
    output: Annotated[Path, typer.Option(help="File to write, .png, .jpg or .webp.")] = Path("masks.png"),
) -> None:
    """Draw strategies on the same images: what the encoder sees and what must be recovered."""
    from maskbench.config import parse_specs
    from maskbench.show import draw

    _load(plugin)
    if every == bool(names):
        raise UsageError("name strategies to show, e.g. `maskbench show random gmml`, or give --all, not both")
    if every:
        from maskbench.library import list_strategies

        names = [name for name in list_strategies() if name != "none"]
    specs = [spec for name in names or [] for spec in parse_specs(name)]
    matched = (0.75 if ratio is None else ratio) if regime is Regime.matched or ratio is not None else None
    _writing(output.parent, lambda: draw(specs, output, dataset, img_size, patch_size, matched, seed, images, every))
    print(output)


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A strategy, NAME[:key=value...], or a plugin.")],
    plugin: Plugins = None,
) -> None:
    """Test whether strategies keep the contract; exit 1 where one does not."""
    from maskbench.config import parse_specs
    from maskbench.library import create_strategy
    from maskbench.testing import check_strategy

    _load(plugin)
    if name.endswith(".py") or "/" in name:
        strategies = [create_strategy(found) for found in _load([name])]
        if not strategies:
            raise UsageError(f"{name} registers no strategy; decorate a class with @register")
    else:
        strategies = [create_strategy(spec["name"], **spec["parameters"]) for spec in parse_specs(name)]
    reports = [check_strategy(strategy) for strategy in strategies]
    print("\n\n".join(map(str, reports)))
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the strategy, e.g. my-mask.")],
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path(),
) -> None:
    """Write a strategy that works, and its test, to start from."""
    from maskbench.scaffold import scaffold

    strategy, test = _writing(folder, lambda: scaffold(name, folder))
    print(f"{strategy}\n{test}")
    print(
        f"next: maskbench check {strategy}; maskbench show {name} --plugin {strategy}; "
        f"maskbench run --plugin {strategy} --strategy random,{name}",
        file=sys.stderr,
    )


class Bench(StrEnum):
    strategies = "strategies"


@app.command()
def bench(
    what: Annotated[Bench, typer.Argument(help="What to time.")] = Bench.strategies,
    only: Annotated[str | None, typer.Option("--strategy", help="NAME[:key=value...],...; all if not given.")] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved; the median is shown.", min=1)] = 7,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Time what strategies add to a step: microseconds an image, batch 256, one CPU thread, and the GPU if there is
    one. A teacher's forward pass, where one is needed, is not in these figures."""
    from maskbench.bench import print_table, time_strategies
    from maskbench.config import parse_specs

    _load(plugin)
    found = time_strategies(parse_specs(only) if only else None, rounds)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_table(found)
