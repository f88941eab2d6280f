"""What strategies cost on generated images, alone."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.runtime.cpu import cpu_name
from maskbench.strategy import REGISTRY, Strategy
from maskbench.testing.synthetic_batch import batch_for

GRIDS = {"224/16": Grid(14, 14, 16), "32/4": Grid(8, 8, 4)}
BATCH = 256
SHORTEST_S = 0.02  # a timing lasts at least this long


def time_strategies(specs: list[dict[str, Any]] | None, rounds: int) -> dict[str, Any]:
    """Median microseconds an image of each strategy in both regimes, on one CPU thread and on the GPU if there is one.

    specs: {name, parameters}; None: all. Rounds are interleaved over the strategies, so that a machine's moods hit all
    alike. {"machine": ..., "rows": [{strategy, regime, grid, device, us_per_image, lowest, highest}]}
    """
    if specs is None:
        specs = [{"name": name, "parameters": {}} for name in REGISTRY.names() if name != "none"]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [
            row
            for device in devices
            for grid in GRIDS
            for row in _time_all([_labelled(spec, grid, device) for spec in specs], rounds)
        ]
    finally:
        torch.set_num_threads(threads)
    machine = {"cpu": cpu_name(), "gpu": torch.cuda.get_device_name() if len(devices) > 1 else None}
    return {"machine": {**machine, "torch": torch.__version__, "batch": BATCH}, "rows": rows}


def _labelled(spec: dict[str, Any], grid: str, device: str) -> list[tuple[dict[str, Any], Strategy]]:
    strategy = REGISTRY.create(spec["name"], **spec["parameters"])
    label = {"strategy": spec["name"], "grid": grid, "device": device}
    found = [({**label, "regime": "paper"}, strategy)]
    try:
        matched = strategy.matched(0.75)
    except UsageError:
        return found
    return found if matched == strategy else [*found, ({**label, "regime": "matched"}, matched)]


def _time_all(candidates: list[list[tuple[dict[str, Any], Strategy]]], rounds: int) -> list[dict[str, Any]]:
    calls: list[tuple[dict[str, Any], Callable[[], Any], list[float]]] = []
    images: dict[float, Tensor] = {}  # by source_scale; shared, for 256 photographs fill 150 MB
    for label, strategy in (pair for pairs in candidates for pair in pairs):
        batch = batch_for(strategy, BATCH, GRIDS[label["grid"]], device=label["device"])
        batch = replace(batch, images=images.setdefault(strategy.source_scale, batch.images))
        calls.append((label, _call(strategy, batch), []))
    for _ in range(rounds):
        for label, call, times in calls:
            times.append(_seconds(call, label["device"]) / BATCH * 1e6)
    return [
        {**label, "us_per_image": statistics.median(times), "lowest": min(times), "highest": max(times)}
        for label, _, times in calls
    ]


def _call(strategy: Strategy, batch: Any) -> Callable[[], Any]:
    return lambda: strategy(batch.images, batch.context())


@torch.no_grad()
def _seconds(call: Callable[[], Any], device: str) -> float:
    """Of one call, from as many as take SHORTEST_S together."""
    call()
    repeats, spent = 1, 0.0
    while spent < SHORTEST_S:
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        _wait(device)
        spent = time.perf_counter() - started
        seconds, repeats = spent / repeats, repeats * 4
    return seconds


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def print_table(found: dict[str, Any]) -> None:
    """On stdout, a row a strategy and regime."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for row in found["rows"]:
        cell = f"{row['us_per_image']:.1f} ({row['lowest']:.1f}-{row['highest']:.1f})"
        table.setdefault((row["strategy"], row["regime"]), {})[f"{row['grid']} {row['device']}"] = cell
    rows = [{"strategy": strategy, "regime": regime, **cells} for (strategy, regime), cells in table.items()]
    machine = found["machine"]
    print(tabulate(rows, headers="keys", tablefmt="github"))
    where = f"{machine['cpu']}, one thread" + (f"; {machine['gpu']}" if machine["gpu"] else "")
    print(
        f"\nmicroseconds an image: median (lowest-highest), batch {machine['batch']}; {where}; torch {machine['torch']}"
    )
