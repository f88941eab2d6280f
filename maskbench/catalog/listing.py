"""What `maskbench list` shows of each kind."""

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from tabulate import tabulate

from maskbench.config import schema, suite
from maskbench.data.torchvision import NAMES
from maskbench.errors import UsageError

DIAGNOSED = 256  # images
Entries = tuple[list[dict[str, Any]], dict[str, str]]


def _components(module: str) -> Entries:
    registry = importlib.import_module(module).REGISTRY
    entries = []
    for name in registry.names():
        try:
            component = registry.get(name)()
        except UsageError:
            continue  # an installed plugin that turns out to be broken, and is listed so
        summary, details = _described(type(component))
        entry = {"name": name, "summary": summary, "details": details, "version": component.version}
        entry["parameters"] = component.parameters
        if registry.kind == "strategy":
            entry |= {"needs": sorted(component.needs), "source_scale": component.source_scale}
            entry |= {"experimental": component.experimental, "origin": registry.origin(name)}
        entries.append(entry)
    return entries, dict(registry.broken)


def _described(cls: type) -> tuple[str, str]:
    """First paragraph and the rest of the docstring; what variants have in common comes from the base class."""
    summary, _, details = (cls.__doc__ or "").strip().partition("\n\n")
    base = cls.__mro__[1]
    if base.__module__ == cls.__module__ and base.__doc__ not in (None, cls.__doc__):
        details += " " + (base.__doc__ or "").strip().partition("\n\n")[2]
    return " ".join(summary.split()), " ".join(details.split())


def with_diagnostics(entries: list[dict[str, Any]]) -> None:
    """Add to strategies what their masks look like in both regimes, on generated images of 14 x 14 patches."""
    from maskbench.catalog.sample_images import specimen
    from maskbench.strategy import REGISTRY
    from maskbench.training.mask_statistics import diagnose

    found = specimen("shapes", "56", 4, DIAGNOSED)
    for entry in entries:
        strategy = REGISTRY.get(entry["name"])()
        regimes = {"paper": strategy}
        with contextlib.suppress(UsageError):  # serves one ratio alone, another one
            regimes["matched"] = strategy.matched(0.75)
        entry["matched_parameters"] = regimes.get("matched", strategy).parameters
        entry["diagnostics"] = {
            regime: diagnose(found.view(chosen, seed=0), found.view(chosen, seed=1), found.grid, found.objects)
            for regime, chosen in regimes.items()
        }


def _presets() -> Entries:
    entries = []
    for name in schema.preset_names():
        settings = schema.preset(name)
        train, data = settings["train"], settings["data"]
        summary = f"{data['dataset']}, {data['img_size']} px, {settings['model']['name']}, {train['epochs']} epochs"
        entries.append({"name": name, "summary": summary, "settings": settings})
    return entries, {}


def _suites() -> Entries:
    entries = []
    for name in suite.suite_names():
        _, given = suite.read_suite(name)
        runs = suite.grid(name, given, {})
        summary = (
            f"{len(runs)} runs: {len(given.strategies)} strategies, {len(given.seeds)} seeds, preset {given.preset}"
        )
        entries.append({"name": name, "summary": summary, "settings": given.model_dump(mode="json")})
    return entries, {}


def _datasets() -> Entries:
    entries = [
        {"name": "shapes", "summary": "generated: 10 shapes on cluttered backgrounds, with object masks; no download"},
        {"name": "torch/NAME", "summary": ", ".join(NAMES) + "; --download fetches them"},
        {
            "name": "hfds/NAME",
            "summary": "by Hugging Face's `datasets`; --download fetches them; pip install '.[hfds]'",
        },
        {"name": "wds/FOLDER", "summary": "tar shards as webdataset writes them, e.g. train-0000.tar, test-0000.tar"},
        {"name": "PATH", "summary": "a folder of Parquet files or of train/<class>/<image>, e.g. ./cifar10"},
    ]
    return entries, {}


def _pairs() -> Entries:
    """Which strategies an objective can learn from; {objective: None or the reason why not} for each strategy."""
    from maskbench import objective as objectives
    from maskbench.catalog.sample_images import specimen
    from maskbench.objectives.compatibility import unfit
    from maskbench.strategy import REGISTRY

    found = specimen("shapes", "56", 4, 2)
    chosen = [objectives.REGISTRY.create(name) for name in objectives.REGISTRY.names()]
    entries, broken = [], {}
    for name in REGISTRY.names():
        try:
            strategy = REGISTRY.create(name)
            view = found.view(strategy)
        except Exception as error:  # a plugin may raise anything
            broken[name] = f"{type(error).__name__}: {error}"
            continue
        reasons = {objective.name: unfit(strategy, objective, view) for objective in chosen}
        fitting = [objective for objective, reason in reasons.items() if reason is None]
        entries.append({"name": name, "summary": " ".join(fitting), "pairs": reasons})
    return entries, {**REGISTRY.broken, **broken}


def matrix(entries: list[dict[str, Any]]) -> str:
    """The pairs as a table, strategies down, objectives across."""
    rows = [{"strategy": entry["name"], **_marks(entry["pairs"])} for entry in entries]
    return tabulate(rows, headers="keys", tablefmt="simple")


def _marks(reasons: dict[str, str | None]) -> dict[str, str]:
    return {objective: "yes" if reason is None else "-" for objective, reason in reasons.items()}


KINDS: dict[str, Callable[[], Entries]] = {
    "strategies": lambda: _components("maskbench.strategy"),
    "objectives": lambda: _components("maskbench.objective"),
    "probes": lambda: _components("maskbench.probe"),
    "datasets": _datasets,
    "presets": _presets,
    "suites": _suites,
    "pairs": _pairs,
}
