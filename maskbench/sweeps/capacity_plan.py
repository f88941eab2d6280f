"""A set of runs on machines that are not at hand: time, storage and network, from arithmetic and measured rates."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from tabulate import tabulate

from maskbench.bench.step import noisy
from maskbench.config.suite import Suite, grid, trials
from maskbench.errors import UsageError
from maskbench.executors.local import Elsewhere
from maskbench.runs.plan import Plan, build, load_splits, plan
from maskbench.sweeps.time_estimate import COUNTED, Rates, images_seen, rates_for
from maskbench.training.flops import encoding_gflops_per_image, training_gflops_per_image
from maskbench.training.train_state import State

COUNTED_ON = 4  # images; arithmetic is the same for all
WRITTEN = 2**20  # bytes of a finished run beside its encoder: record, curve, predictions, pictures
CHECKPOINTS = 2  # kept while a run is under way


class Step(BaseModel):
    """What counts of `maskbench bench step --json`, taken on the device that is planned with."""

    flops_per_image: float = Field(gt=0)
    end_to_end_images_per_s: float = Field(gt=0)

    @property
    def flops(self) -> float:
        """Arithmetic that the device does in a second of training, end to end."""
        return self.flops_per_image * self.end_to_end_images_per_s


@dataclass(frozen=True)
class Work:
    """What a run is made of, whatever the machine.

    training_gflops, encoding_gflops: for an image. seen: images of training, epochs counted; read: those that probes
    encode. steps: of training. In bytes: gradients, which devices that share a run exchange in every step; a
    checkpoint; what a finished run leaves.
    """

    training_gflops: float
    encoding_gflops: float
    seen: int
    read: int
    steps: int
    gradient_bytes: int
    checkpoint_bytes: int
    left_bytes: int


@dataclass(frozen=True)
class Fleet:
    """What is planned with.

    devices: in all. per_run: how many share a run. link_bytes: that one of them sends or receives in a second.
    image_bytes: of an encoded image, where data are streamed; 0 where they lie on the device.
    """

    devices: int
    per_run: int = 1
    link_bytes: float = 25e9
    image_bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.devices % self.per_run:
            raise UsageError(f"{self.devices} devices cannot be shared out {self.per_run} to a run; choose a divisor")


def work_of(planned: Plan, images: int, tests: int) -> Work:
    """Counted on a model that is built and on a few made-up images; nothing of the data is read."""
    splits = noisy(planned, COUNTED_ON)
    state = build(planned, splits)
    trains = planned.objective.trains
    seen, batch = images_seen(planned, images), planned.config.train.batch_size
    return Work(
        training_gflops=training_gflops_per_image(planned.config, splits, planned.strategy, state) if trains else 0.0,
        encoding_gflops=encoding_gflops_per_image(planned.config, state),
        seen=seen,
        read=images + tests,
        steps=seen // batch,
        gradient_bytes=_trained_bytes(state),
        checkpoint_bytes=_bytes(state.state_dict()) + 2 * _trained_bytes(state) if trains else 0,
        left_bytes=_bytes(state.head.encoder.vit.state_dict()) + WRITTEN,
    )


def _trained_bytes(state: State) -> int:
    return sum(_bytes(parameter) for group in state.optimizer.param_groups for parameter in group["params"])


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def rates_by_flops(work: Work, step: Step) -> Rates:
    """Of a run on one device that does as much arithmetic a second as in `step`, whatever the strategy. Probes beyond
    the encoding of images are not counted."""
    second = step.flops / 1e9
    return Rates(0.0, work.training_gflops / second, work.read * work.encoding_gflops / second)


def seconds(work: Work, rates: Rates, fleet: Fleet) -> float:
    """Of one run on `fleet.per_run` devices.

    They share images evenly and exchange gradients by a ring, 2 (n - 1) / n of them in and out of each, behind the
    backward pass, two thirds of a step: what is longer counts.
    """
    count = fleet.per_run
    if count == 1 or not work.steps:
        return rates.around_s + work.seen * rates.image_s + rates.probing_s / count
    step = work.seen / work.steps * rates.image_s / count
    exchange = 2 * (count - 1) / count * work.gradient_bytes / fleet.link_bytes
    return rates.around_s + work.steps * (step / 3 + max(2 * step / 3, exchange)) + rates.probing_s / count


def finished_after(durations: Sequence[float], slots: int) -> float:
    """Seconds until all are done, each started, in order, where a slot is free first."""
    free = [0.0] * slots
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def forecast(runs: Sequence[tuple[str, Work, Rates]], fleet: Fleet) -> dict[str, Any]:
    """Of runs in order, each with its label.

    {"rows": one a label, "runs", "devices", "devices_per_run", "at_once", "wall_s", "device_s", "left_bytes": in the
    end, "checkpoint_bytes": beside those, at most, "read_bytes_per_s": by all, "exchanged_bytes_per_s": by each device}
    """
    durations = [seconds(work, rates, fleet) for _, work, rates in runs]
    at_once = min(len(runs), fleet.devices // fleet.per_run)
    rows: dict[str, dict[str, Any]] = {}
    for (label, work, rates), duration in zip(runs, durations, strict=True):
        row = rows.setdefault(label, {"strategy": label, "runs": 0, "gflops_per_image": work.training_gflops})
        row["images_per_s"] = 1 / rates.image_s if rates.image_s else None
        row["runs"] += 1
        row["run_s"] = duration
    checkpoints = heapq.nlargest(at_once, (work.checkpoint_bytes for _, work, _ in runs))
    busiest = heapq.nlargest(at_once, (_reading(rates, fleet) for _, _, rates in runs))
    return {
        "rows": list(rows.values()),
        "runs": len(runs),
        "devices": fleet.devices,
        "devices_per_run": fleet.per_run,
        "at_once": at_once,
        "wall_s": finished_after(durations, at_once),
        "device_s": sum(durations) * fleet.per_run,
        "left_bytes": sum(work.left_bytes for _, work, _ in runs),
        "checkpoint_bytes": CHECKPOINTS * sum(checkpoints),
        "read_bytes_per_s": sum(busiest),
        "exchanged_bytes_per_s": max(_exchange(work, rates, fleet) for _, work, rates in runs),
    }


def _reading(rates: Rates, fleet: Fleet) -> float:
    return fleet.image_bytes * fleet.per_run / rates.image_s if rates.image_s else 0.0


def _exchange(work: Work, rates: Rates, fleet: Fleet) -> float:
    if fleet.per_run == 1 or not work.steps:
        return 0.0
    step = work.seen / work.steps * rates.image_s / fleet.per_run
    return 2 * (fleet.per_run - 1) / fleet.per_run * work.gradient_bytes / step


@dataclass
class Forecaster:
    """Foretells what a suite takes.

    step: how fast such a device is; measured here if None. images, tests: how many there are; those of the data at hand
    if None. plugins: to load where it is measured.
    """

    fleet: Fleet
    step: Step | None
    images: int | None
    tests: int
    plugins: Sequence[str] = ()

    def __call__(self, name: str, suite: Suite, overrides: dict[str, Any]) -> dict[str, Any]:
        """See `forecast`, and {"not_counted": names of probes}. UsageError for settings that cannot be."""
        configs = [*trials(name, suite, overrides), *grid(name, suite, overrides)]
        if any(config.train.budget is not None for config in configs):
            raise UsageError("a budget is measured where it is spent: plan with --set train.epochs=... instead")
        planned = [plan(config) for config in configs]
        kinds: dict[str, tuple[Work, Rates]] = {}
        measure = Elsewhere(self.plugins, self.fleet.devices)
        for each in planned:
            if each.kind not in kinds:
                kinds[each.kind] = self._kind(each, measure)
        measure.close()
        labels = [f"{each.label}, trials" if each.trial else each.label for each in planned]
        runs = [(label, *kinds[each.kind]) for label, each in zip(labels, planned, strict=True)]
        known = COUNTED if self.step is None else frozenset[str]()
        others = {probe.name for each in planned for probe in each.probes} - known
        return {**forecast(runs, self.fleet), "not_counted": sorted(others)}

    def _kind(self, planned: Plan, measure: Elsewhere) -> tuple[Work, Rates]:
        images, tests = self.images, self.tests
        if images is None:
            planned, splits = load_splits(planned)
            images, tests = len(splits.train), len(splits.test)
        work = work_of(planned, images, tests)
        return work, measure(rates_for, planned.config) if self.step is None else rates_by_flops(work, self.step)


def read_step(path: Path) -> Step:
    """UsageError where the file is not what `maskbench bench step --json` prints."""
    try:
        return Step.model_validate_json(path.read_text())
    except (OSError, ValueError):
        raise UsageError(
            f"{path} is not what `maskbench bench step --json` prints; make one on such a device"
        ) from None


def told(found: dict[str, Any]) -> str:
    """As text: a row a strategy, then the sums."""
    rows = [
        [
            row["strategy"],
            row["runs"],
            f"{row['gflops_per_image']:.3g}",
            _rate(row["images_per_s"]),
            _time(row["run_s"]),
        ]
        for row in found["rows"]
    ]
    table = tabulate(
        rows,
        ["strategy", "runs", "GFLOPs/image", "images/s a device", "a run"],
        tablefmt="github",
        disable_numparse=True,
    )
    each = f" of {found['devices_per_run']} devices" if found["devices_per_run"] > 1 else ""
    lines = [
        f"{found['runs']} runs, {found['at_once']} at a time{each}: {_time(found['wall_s'])}, "
        f"{found['device_s'] / 3600:,.1f} device-hours on {found['devices']} devices",
        f"storage: {_size(found['left_bytes'])} in the end, up to {_size(found['checkpoint_bytes'])} of checkpoints "
        f"meanwhile",
    ]
    network = []
    if found["read_bytes_per_s"]:
        network.append(f"images {_size(found['read_bytes_per_s'])}/s for all")
    if found["exchanged_bytes_per_s"]:
        network.append(f"gradients {_size(found['exchanged_bytes_per_s'])}/s in and out of each device")
    lines.append(f"network: {', '.join(network) or 'nothing but records and checkpoints'}")
    if found["not_counted"]:
        lines.append(f"not counted: {', '.join(found['not_counted'])}")
    return "\n".join([table, "", *lines])


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _time(value: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s"


def _size(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 1e3:.0f} kB"
