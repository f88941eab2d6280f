"""What strategies cost, alone, on generated images."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from maskbench.bench.machine import seconds_per_call
from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.runtime.cpu import cpu_name
from maskbench.runtime.standard_streams import print_data
from maskbench.strategy import REGISTRY, Strategy
from maskbench.testing.synthetic_batch import make_batch

GRIDS = {"224/16": Grid(14, 14, 16), "32/4": Grid(8, 8, 4)}
BATCH = 256
MIN_TIMING_S = 0.02  # a timing lasts at least this long


@dataclass(frozen=True)
class StrategyTiming:
    """One row: a strategy in one regime, on one grid and device.

    Attributes:
        strategy: Its name.
        grid: A name of GRIDS.
        device: "cpu" or "cuda".
        regime: "paper" or "matched".
        us_per_image: Microseconds an image, the median over rounds.
        lowest: Of the rounds.
        highest: Of the rounds.
    """

    strategy: str
    grid: str
    device: str
    regime: str
    us_per_image: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class StrategyMachine:
    """Where strategies were timed, on one thread of the CPU; gpu: None where there is none."""

    cpu: str
    gpu: str | None
    torch: str
    batch: int


@dataclass(frozen=True)
class StrategyBenchmark:
    """`maskbench bench strategies --json` prints the fields."""

    machine: StrategyMachine
    rows: list[StrategyTiming]


@dataclass(frozen=True)
class _Candidate:
    name: str
    strategy: Strategy
    regime: str
    grid: str
    device: str
    times_us: list[float] = field(default_factory=list)

    def timing(self) -> StrategyTiming:
        times = self.times_us
        median = statistics.median(times)
        return StrategyTiming(self.name, self.grid, self.device, self.regime, median, min(times), max(times))


def time_strategies(specs: Sequence[dict[str, Any]] | None, rounds: int) -> StrategyBenchmark:
    """Time strategies in both regimes, on one CPU thread, and on the GPU if there is one.

    Args:
        specs: {"name": ..., "parameters": {...}} of each; None: all strategies.
        rounds: Of which the median counts. They are interleaved, so that a slow moment of the machine hits all alike.
    """
    if specs is None:
        specs = [{"name": name, "parameters": {}} for name in REGISTRY.names() if name != "none"]
    has_gpu = torch.cuda.is_available()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [
            row
            for device in ("cpu", "cuda")[: 1 + has_gpu]
            for grid in GRIDS
            for row in _time_all([each for spec in specs for each in _candidates(spec, grid, device)], rounds)
        ]
    finally:
        torch.set_num_threads(threads)
    gpu = torch.cuda.get_device_name() if has_gpu else None
    return StrategyBenchmark(StrategyMachine(cpu_name(), gpu, torch.__version__, BATCH), rows)


def _candidates(spec: dict[str, Any], grid: str, device: str) -> list[_Candidate]:
    """The strategy with its own parameters, and in the matched regime where that is something else."""
    strategy = REGISTRY.create(spec["name"], **spec["parameters"])
    paper = _Candidate(spec["name"], strategy, "paper", grid, device)
    try:
        matched = strategy.matched(0.75)
    except UsageError:
        return [paper]
    if matched == strategy:
        return [paper]
    return [paper, _Candidate(spec["name"], matched, "matched", grid, device)]


def _time_all(candidates: Sequence[_Candidate], rounds: int) -> list[StrategyTiming]:
    images: dict[float, Tensor] = {}  # by source_scale; shared, for 256 photographs fill 150 MB
    calls = [_call(candidate, images) for candidate in candidates]
    for _ in range(rounds):
        for candidate, call in zip(candidates, calls, strict=True):
            candidate.times_us.append(_seconds_per_call(call, candidate.device) / BATCH * 1e6)
    return [candidate.timing() for candidate in candidates]


def _call(candidate: _Candidate, images: dict[float, Tensor]) -> Callable[[], Any]:
    strategy = candidate.strategy
    batch = make_batch(strategy, BATCH, GRIDS[candidate.grid], device=candidate.device)
    batch = replace(batch, images=images.setdefault(strategy.source_scale, batch.images))
    return lambda: strategy(batch.images, batch.context())


@torch.no_grad()
def _seconds_per_call(call: Callable[[], Any], device: str) -> float:
    """From as many calls in a row as take MIN_TIMING_S together."""
    call()
    repeats, spent = 1, 0.0
    while spent < MIN_TIMING_S:
        seconds = seconds_per_call(call, repeats, torch.device(device))
        spent, repeats = seconds * repeats, repeats * 4
    return seconds


def print_strategies(found: StrategyBenchmark) -> None:
    """On stdout, a row for each strategy and regime."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for row in found.rows:
        cell = f"{row.us_per_image:.1f} ({row.lowest:.1f}-{row.highest:.1f})"
        table.setdefault((row.strategy, row.regime), {})[f"{row.grid} {row.device}"] = cell
    rows = [{"strategy": strategy, "regime": regime, **cells} for (strategy, regime), cells in table.items()]
    machine = found.machine
    print_data(tabulate(rows, headers="keys", tablefmt="github"))
    where = f"{machine.cpu}, one thread" + (f"; {machine.gpu}" if machine.gpu else "")
    print_data(
        f"\nmicroseconds an image: median (lowest-highest), batch {machine.batch}; {where}; torch {machine.torch}"
    )
