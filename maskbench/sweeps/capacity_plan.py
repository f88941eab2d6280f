"""What a set of runs takes on other machines: time, storage and network, from arithmetic and measured rates."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tabulate import tabulate

from maskbench.config.suite import Suite, expand_suite, expand_trials
from maskbench.errors import UsageError
from maskbench.executors.local import IsolatedWorkers
from maskbench.runs.plan import Plan, load_data, make_plan
from maskbench.sweeps.time_estimate import MEASURED_PROBES, Rates, measure_rates
from maskbench.sweeps.workload import (
    DevicePool,
    MeasuredStep,
    Workload,
    exchanged_bytes,
    measure_workload,
    rates_from_flops,
    run_seconds,
    seconds_of_step,
)

CHECKPOINTS = 2  # files that a run keeps while it trains


def makespan_s(durations: Sequence[float], slots: int) -> float:
    """Seconds until all runs are done, each started, in order, on the slot that is free first."""
    free_at = [0.0] * slots
    for duration in durations:
        heapq.heappush(free_at, heapq.heappop(free_at) + duration)
    return max(free_at)


@dataclass
class RowForecast:
    """The runs of a row.

    Attributes:
        strategy: The row's label.
        runs: How many.
        gflops_per_image: Of training.
        images_per_s: In training, on a device; None where nothing is trained.
        run_s: Seconds of one run.
    """

    strategy: str
    runs: int
    gflops_per_image: float
    images_per_s: float | None
    run_s: float


@dataclass
class Forecast:
    """What a set of runs takes; `maskbench plan --json` prints the fields.

    Attributes:
        rows: In the order of the runs.
        runs: How many.
        devices: In the pool.
        devices_per_run: How many share a run.
        at_once: Runs at a time.
        wall_s: Seconds until all are done.
        device_s: Seconds of all devices together.
        left_bytes: Storage in the end.
        checkpoint_bytes: Most storage beside that, while runs are under way.
        read_bytes_per_s: Encoded images, by all devices.
        exchanged_bytes_per_s: Gradients, in and out of each device.
        not_counted: Names of probes whose time is not in it.
    """

    rows: list[RowForecast]
    runs: int
    devices: int
    devices_per_run: int
    at_once: int
    wall_s: float
    device_s: float
    left_bytes: int
    checkpoint_bytes: int
    read_bytes_per_s: float
    exchanged_bytes_per_s: float
    not_counted: list[str] = field(default_factory=list)


def forecast(runs: Sequence[tuple[str, Workload, Rates]], pool: DevicePool) -> Forecast:
    """Add up what runs take, started in order. runs: each with the label of its row."""
    durations = [run_seconds(work, rates, pool) for _, work, rates in runs]
    at_once = min(len(runs), pool.devices // pool.per_run)
    checkpoints = heapq.nlargest(at_once, (work.checkpoint_bytes for _, work, _ in runs))
    busiest = heapq.nlargest(at_once, (_read_rate(rates, pool) for _, _, rates in runs))
    return Forecast(
        rows=_rows(runs, durations),
        runs=len(runs),
        devices=pool.devices,
        devices_per_run=pool.per_run,
        at_once=at_once,
        wall_s=makespan_s(durations, at_once),
        device_s=sum(durations) * pool.per_run,
        left_bytes=sum(work.result_bytes for _, work, _ in runs),
        checkpoint_bytes=CHECKPOINTS * sum(checkpoints),
        read_bytes_per_s=sum(busiest),
        exchanged_bytes_per_s=max(_exchange_rate(work, rates, pool) for _, work, rates in runs),
    )


def _rows(runs: Sequence[tuple[str, Workload, Rates]], durations: Sequence[float]) -> list[RowForecast]:
    rows: dict[str, RowForecast] = {}
    for (label, work, rates), duration in zip(runs, durations, strict=True):
        row = rows.setdefault(label, RowForecast(label, 0, work.training_gflops, None, 0.0))
        row.images_per_s = 1 / rates.train_s_per_image if rates.train_s_per_image else None
        row.runs += 1
        row.run_s = duration
    return list(rows.values())


def _read_rate(rates: Rates, pool: DevicePool) -> float:
    """Bytes of encoded images a second, for a run."""
    return pool.image_bytes * pool.per_run / rates.train_s_per_image if rates.train_s_per_image else 0.0


def _exchange_rate(work: Workload, rates: Rates, pool: DevicePool) -> float:
    """Bytes of gradients a second, in and out of each device."""
    if pool.per_run == 1 or not work.steps:
        return 0.0
    return exchanged_bytes(work, pool) / seconds_of_step(work, rates, pool)


@dataclass
class CapacityPlanner:
    """Predicts what a suite takes on other machines.

    Attributes:
        pool: Their devices.
        step: How fast such a device is; None: measured on this machine.
        images: Number of training images; None: those of the data set, which is read.
        tests: Number of test images, where `images` is given.
        plugins: To load in the process that measures.
    """

    pool: DevicePool
    step: MeasuredStep | None
    images: int | None
    tests: int
    plugins: Sequence[str] = ()

    def plan(self, name: str, suite: Suite, overrides: dict[str, Any]) -> Forecast:
        """Predict a suite. UsageError for settings that cannot be combined, and for a budget instead of epochs."""
        configs = [*expand_trials(name, suite, overrides), *expand_suite(name, suite, overrides)]
        if any(config.train.budget is not None for config in configs):
            raise UsageError("a budget is measured where it is spent: plan with --set train.epochs=... instead")
        plans = [make_plan(config) for config in configs]
        kinds = self._measure_kinds(plans)
        labels = [f"{plan.label}, trials" if plan.is_trial else plan.label for plan in plans]
        runs = [(label, *kinds[plan.kind]) for label, plan in zip(labels, plans, strict=True)]
        counted = MEASURED_PROBES if self.step is None else frozenset[str]()
        others = {probe.name for plan in plans for probe in plan.probes} - counted
        return replace(forecast(runs, self.pool), not_counted=sorted(others))

    def _measure_kinds(self, plans: Sequence[Plan]) -> dict[str, tuple[Workload, Rates]]:
        """Of runs that differ only in their seed, once."""
        kinds: dict[str, tuple[Workload, Rates]] = {}
        workers = IsolatedWorkers(self.plugins, self.pool.devices)
        for plan in plans:
            if plan.kind not in kinds:
                kinds[plan.kind] = self._measure(plan, workers)
        workers.close()
        return kinds

    def _measure(self, plan: Plan, workers: IsolatedWorkers) -> tuple[Workload, Rates]:
        images, tests = self.images, self.tests
        if images is None:
            plan, splits = load_data(plan)
            images, tests = len(splits.train), len(splits.test)
        work = measure_workload(plan, images, tests)
        return work, workers(measure_rates, plan.config) if self.step is None else rates_from_flops(work, self.step)


def format_plan(plan: Forecast) -> str:
    """As text: a row for each strategy, then the sums."""
    each = f" of {plan.devices_per_run} devices" if plan.devices_per_run > 1 else ""
    lines = [
        _format_rows(plan.rows),
        "",
        f"{plan.runs} runs, {plan.at_once} at a time{each}: {_format_time(plan.wall_s)}, "
        f"{plan.device_s / 3600:,.1f} device-hours on {plan.devices} devices",
        f"storage: {_format_bytes(plan.left_bytes)} in the end, up to {_format_bytes(plan.checkpoint_bytes)} of "
        f"checkpoints meanwhile",
    ]
    network = []
    if plan.read_bytes_per_s:
        network.append(f"images {_format_bytes(plan.read_bytes_per_s)}/s for all")
    if plan.exchanged_bytes_per_s:
        network.append(f"gradients {_format_bytes(plan.exchanged_bytes_per_s)}/s in and out of each device")
    lines.append(f"network: {', '.join(network) or 'nothing but records and checkpoints'}")
    if plan.not_counted:
        lines.append(f"not counted: {', '.join(plan.not_counted)}")
    return "\n".join(lines)


def _format_rows(rows: Sequence[RowForecast]) -> str:
    headers = ["strategy", "runs", "GFLOPs/image", "images/s a device", "a run"]
    cells = [
        [
            row.strategy,
            row.runs,
            f"{row.gflops_per_image:.3g}",
            "–" if row.images_per_s is None else f"{row.images_per_s:,.0f}",
            _format_time(row.run_s),
        ]
        for row in rows
    ]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)


def _format_time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _format_bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
