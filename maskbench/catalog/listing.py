"""What `maskbench list` shows of each kind."""

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from tabulate import tabulate

from maskbench.catalog.docstrings import describe
from maskbench.config import suite
from maskbench.config.resolve import load_preset, preset_names
from maskbench.data.torchvision import NAMES
from maskbench.errors import UsageError

DIAGNOSTIC_IMAGES = 256
Entries = tuple[list[dict[str, Any]], dict[str, str]]


def _components(module: str) -> Entries:
    registry = importlib.import_module(module).REGISTRY
    entries = []
    for name in registry.names():
        try:
            component = registry.get(name)()
        except UsageError:
            continue  # an installed plugin that turns out to be broken, and is listed so
        text = describe(type(component))
        entry = {"name": name, "summary": text.summary, "details": text.details, "version": component.version}
        entry["parameters"] = component.parameters
        if registry.kind == "strategy":
            entry |= {"needs": sorted(component.needs), "source_scale": component.source_scale}
            entry |= {"experimental": component.experimental, "origin": registry.origin(name)}
        entries.append(entry)
    return entries, dict(registry.broken)


def add_diagnostics(entries: list[dict[str, Any]]) -> None:
    """Add to the entries of strategies what their masks look like in both regimes, on generated images of 14 x 14
    patches."""
    from maskbench.catalog.sample_images import sample_batch
    from maskbench.strategy import REGISTRY
    from maskbench.training.mask_statistics import diagnose

    batch = sample_batch("shapes", "56", 4, DIAGNOSTIC_IMAGES)
    for entry in entries:
        strategy = REGISTRY.get(entry["name"])()
        regimes = {"paper": strategy}
        with contextlib.suppress(UsageError):  # a strategy may serve one ratio alone
            regimes["matched"] = strategy.matched(0.75)
        entry["matched_parameters"] = regimes.get("matched", strategy).parameters
        entry["diagnostics"] = {
            regime: diagnose(batch.view(variant, seed=0), batch.view(variant, seed=1), batch.grid, batch.objects)
            for regime, variant in regimes.items()
        }


def _presets() -> Entries:
    entries = []
    for name in preset_names():
        settings = load_preset(name)
        train, data = settings["train"], settings["data"]
        summary = f"{data['dataset']}, {data['img_size']} px, {settings['model']['name']}, {train['epochs']} epochs"
        entries.append({"name": name, "summary": summary, "settings": settings})
    return entries, {}


def _suites() -> Entries:
    entries = []
    for name in suite.suite_names():
        _, settings = suite.read_suite(name)
        runs = suite.expand_suite(name, settings, {})
        size = f"{len(settings.rows or settings.strategies or ())} rows, {len(settings.seeds)} seeds"
        summary = f"{len(runs)} runs: {size}, preset {settings.preset}"
        entries.append({"name": name, "summary": summary, "settings": settings.model_dump(mode="json")})
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
    """Which objectives go with each strategy: {objective: None, or the reason why not}."""
    from maskbench import objective as objectives
    from maskbench.catalog.sample_images import sample_batch
    from maskbench.objectives.compatibility import incompatibility_reason
    from maskbench.runtime.plugin_exits import exits_as_errors
    from maskbench.strategy import REGISTRY

    batch = sample_batch("shapes", "56", 4, 2)
    all_objectives = [objectives.REGISTRY.create(name) for name in objectives.REGISTRY.names()]
    entries, broken = [], {}
    for name in REGISTRY.names():
        try:
            with exits_as_errors():
                strategy = REGISTRY.create(name)
                view = batch.view(strategy)
        except Exception as error:  # a plugin may raise anything
            broken[name] = f"{type(error).__name__}: {error}"
            continue
        reasons = {objective.name: incompatibility_reason(strategy, objective, view) for objective in all_objectives}
        fitting = [objective for objective, reason in reasons.items() if reason is None]
        entries.append({"name": name, "summary": " ".join(fitting), "pairs": reasons})
    return entries, {**REGISTRY.broken, **broken}


def format_pairs(entries: list[dict[str, Any]]) -> str:
    """The pairs as a table, a row for each strategy and a column for each objective."""
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
