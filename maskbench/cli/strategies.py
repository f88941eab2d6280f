"""`maskbench list`, `show`, `check` and `new`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maskbench.cli.shared_options import AsJson, Plugins, Regime, finite, folder_name, load_plugins, write_under
from maskbench.errors import UsageError, unknown_name
from maskbench.runtime.escaping import dump_json, print_message
from maskbench.runtime.standard_streams import print_data


def list_(
    kind: Annotated[
        str, typer.Argument(help="strategies, objectives, probes, datasets, presets, suites or pairs.")
    ] = "strategies",
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List strategies, objectives, probes, data sets, presets, suites.

    `pairs` shows which strategy goes with which objective. A broken plugin is named on stderr and disturbs nothing.
    """
    from maskbench.catalog import listing

    load_plugins(plugin)
    if kind not in listing.KINDS:
        raise unknown_name("kind", kind, listing.KINDS)
    entries, broken = listing.KINDS[kind]()
    if as_json:
        if kind == "strategies":
            listing.add_diagnostics(entries)
        print_data(dump_json(entries, indent=1))
    elif kind == "pairs":
        print_data(listing.format_pairs(entries))
    else:
        width = max(len(entry["name"]) for entry in entries)
        for entry in entries:
            marked = "(experimental) " if entry.get("experimental") else ""
            print_data(f"{entry['name']:{width}}  {marked}{entry['summary']}")
    for module, reason in broken.items():
        print_message(f"{module} is broken: {reason}")


def show(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|RUN]...", help="Strategies, as for run --strategy, or folders of runs."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every strategy, what the encoder sees alone.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="One strategy on a page, with what its parameters do.")
    ] = False,
    dataset: Annotated[str, typer.Option(help="shapes, or a path.")] = "shapes",
    img_size: Annotated[str, typer.Option(help="224 or 160x224 (rows x cols).")] = "64",
    patch_size: Annotated[int, typer.Option(min=1, help="Pixels.")] = 8,
    regime: Annotated[Regime, typer.Option()] = Regime.paper,
    ratio: Annotated[
        float | None, typer.Option(callback=finite, help="Hidden share in the matched regime, which it implies.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    plugin: Plugins = None,
    images: Annotated[int, typer.Option(help="Images drawn.", min=1, max=32)] = 8,
    output: Annotated[Path, typer.Option(help="File to write, .png, .jpg or .webp.")] = Path("masks.png"),
) -> None:
    """Draw strategies on the same images.

    What the encoder sees, and what it must recover.
    """
    from maskbench.catalog.gallery import draw_strategies

    load_plugins(plugin)
    if every == bool(names):
        raise UsageError("name strategies to show, e.g. `maskbench show random gmml`, or give --all, not both")
    if every:
        from maskbench.api import list_strategies

        names = [name for name in list_strategies() if name != "none"]
    specs = [spec for name in names or [] for spec in _specs_of(name)]
    matched = (0.75 if ratio is None else ratio) if regime is Regime.matched or ratio is not None else None
    if explain:
        from maskbench.catalog.explanation import draw_explanation

        if len(specs) != 1:
            raise UsageError("name one strategy to explain, e.g. `maskbench show gmml --explain`")
        places = specs[0], output.absolute(), dataset, img_size, patch_size, matched, seed
        write_under(output.parent, lambda: draw_explanation(*places))
        print_data(output)
        return
    where = specs, output.absolute(), dataset, img_size, patch_size, matched, seed, images, every
    write_under(output.parent, lambda: draw_strategies(*where))
    print_data(output)


def _specs_of(name: str) -> list[dict[str, Any]]:
    """The strategies that a text names, or the one of a run whose folder or record it is."""
    from maskbench.config.specs import parse_specs
    from maskbench.record import UnreadableRecord, locate_record, read_record
    from maskbench.runs.rerun import ensure_plugin_loaded

    path = Path(name)
    if not path.exists() or not ("/" in name or (path / "record.json").is_file() or (path / "runs").is_dir()):
        return parse_specs(name)
    try:
        record = read_record(locate_record(path))
    except UnreadableRecord as error:
        raise UsageError(str(error)) from None
    ensure_plugin_loaded(record)
    return [{"name": record.strategy["name"], "parameters": record.strategy["parameters"]}]


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE", help="A strategy, NAME[:key=value...], an objective, a probe, or a plugin."
        ),
    ],
    plugin: Plugins = None,
) -> None:
    """Test whether a strategy, an objective or a probe keeps the contract.

    A mistake is a line, with the line of the plugin and the remedy. Exit code 1 where there is one.
    """
    from maskbench.testing.conformance import check_component, components_named, components_of

    load_plugins(plugin)
    if name.endswith(".py") or "/" in name:
        components = components_of(name)
        if not components:
            raise UsageError(f"{name} registers no strategy, objective or probe; decorate a class with @register")
    else:
        components = components_named(name)
    reports = [check_component(component) for component in components]
    print_data("\n\n".join(map(str, reports)))
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


def new(
    name: Annotated[str, typer.Argument(help="Of the strategy, e.g. my-mask.")],
    folder: Annotated[Path, typer.Option(parser=folder_name, metavar="DIR", help="Where to write.")] = Path(),
) -> None:
    """Write a working strategy and its test, to start from."""
    from maskbench.cli.scaffold import scaffold

    strategy, test = write_under(folder, lambda: scaffold(name, folder))
    print_data(f"{strategy}\n{test}")
    quoted = shlex.quote(str(strategy))
    print(
        f"next: maskbench check {quoted}; maskbench show {name} --plugin {quoted}; "
        f"maskbench run --plugin {quoted} --strategy random,{name}",
        file=sys.stderr,
    )
