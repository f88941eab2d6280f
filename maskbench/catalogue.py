"""What `maskbench list` shows of each kind."""

import importlib
from collections.abc import Callable
from typing import Any

from maskbench import config
from maskbench.data.downloads import NAMES

Entries = tuple[list[dict[str, Any]], dict[str, str]]


def _components(module: str) -> Entries:
    registry = importlib.import_module(module).REGISTRY
    entries = []
    for name in registry.names():
        component = registry.get(name)()
        summary, _, details = (type(component).__doc__ or "").strip().partition("\n")
        entry = {"name": name, "summary": summary, "details": " ".join(details.split()), "version": component.version}
        entry["parameters"] = component.parameters
        if registry.kind == "strategy":
            entry |= {"needs": sorted(component.needs), "source_scale": component.source_scale}
        entries.append(entry)
    return entries, dict(registry.broken)


def _presets() -> Entries:
    entries = []
    for name in config.preset_names():
        settings = config.preset(name)
        train, data = settings["train"], settings["data"]
        summary = f"{data['dataset']}, {data['img_size']} px, {settings['model']['name']}, {train['epochs']} epochs"
        entries.append({"name": name, "summary": summary, "settings": settings})
    return entries, {}


def _datasets() -> Entries:
    entries = [
        {"name": "shapes", "summary": "generated: 10 shapes on cluttered backgrounds, with object masks; no download"},
        {"name": "torch/NAME", "summary": ", ".join(NAMES) + "; --download fetches them"},
        {"name": "PATH", "summary": "a folder of Parquet files or of train/<class>/<image>, e.g. ./cifar10"},
    ]
    return entries, {}


KINDS: dict[str, Callable[[], Entries]] = {
    "strategies": lambda: _components("maskbench.strategy"),
    "objectives": lambda: _components("maskbench.objective"),
    "probes": lambda: _components("maskbench.probe"),
    "datasets": _datasets,
    "presets": _presets,
}
