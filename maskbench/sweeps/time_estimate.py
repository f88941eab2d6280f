"""How long a set of runs will take: from records of the same kind where there are any, else from a few steps."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch

from maskbench.config.settings import RunConfig
from maskbench.data.splits import Images, Split, Splits, build_splits, stratified_order
from maskbench.errors import UsageError
from maskbench.probe import Subject
from maskbench.probes.online_knn import BANK_IMAGES, QUERY_IMAGES, OnlineKnn
from maskbench.record import RunRecord
from maskbench.runs.artifacts import read_finished_record, write_artifacts
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.plan import Plan, build_state, load_data, make_plan, probe_splits
from maskbench.runs.run_facts import measure_masks
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.step import Trainer
from maskbench.training.train_state import TrainState

MEASURED_STEPS = 5  # the median counts
MEASURED_PROBES = frozenset({"knn", "linear"})  # their time grows with the number of images
PROBE_SIZES = (500, 1_500)  # images of train, and of test, for which it is measured


State = Literal["done", "started", "open"]


@dataclass(frozen=True)
class RunEstimate:
    """A run of a set, and what is left of it.

    Attributes:
        plan: The run.
        state: Whether it is done, or has a checkpoint.
        seconds: That it still takes; 0 where it is done, None if unknown.
    """

    plan: Plan
    state: State
    seconds: float | None


def estimate_runs(plans: Sequence[Plan], measure: Callable[[RunConfig], float | None]) -> list[RunEstimate]:
    """Estimate how long each run takes, alone on this machine; beside others it takes longer.

    Where a run of the same cost, such as another seed, is done, its record says how long. Interrupted runs count whole.

    Args:
        plans: The runs.
        measure: Returns what `estimate_seconds` does, or None; called once for all runs of the same cost.
    """
    recorded: dict[str, list[float]] = {}
    states: list[State] = []
    for plan in plans:
        record = _read_record(plan)
        started = Checkpoints(plan.folder).newest.exists()
        states.append("done" if record is not None else "started" if started else "open")
        if record is not None and "cost/wall_s" in record.metrics:
            recorded.setdefault(_cost_key(plan), []).append(record.metrics["cost/wall_s"])
    seconds: dict[str, float | None] = {key: statistics.median(times) for key, times in recorded.items()}
    for plan, state in zip(plans, states, strict=True):
        if state != "done" and _cost_key(plan) not in seconds:
            seconds[_cost_key(plan)] = measure(plan.config)
    return [
        RunEstimate(plan, state, 0.0 if state == "done" else seconds[_cost_key(plan)])
        for plan, state in zip(plans, states, strict=True)
    ]


def _read_record(plan: Plan) -> RunRecord | None:
    with suppress(UsageError):  # refused before, unless the run is to be repeated
        return read_finished_record(plan.folder)
    return None


def _cost_key(plan: Plan) -> str:
    return f"{plan.cost_key} {plan.config.train.epochs}"


@dataclass(frozen=True)
class Rates:
    """The time of a run on one device, in parts.

    Attributes:
        overhead_s: Seconds to begin and end it.
        train_s_per_image: Seconds of training for each image.
        probing_s: Seconds of all probes, online readings among them.
    """

    overhead_s: float
    train_s_per_image: float
    probing_s: float

    def seconds(self, images: int) -> float:
        """Of a run that sees this many images in training, epochs counted."""
        return self.overhead_s + images * self.train_s_per_image + self.probing_s


def estimate_seconds(config: RunConfig) -> float:
    """Seconds of a run on this machine, from a few steps of its training and probes of some images."""
    plan, splits = load_data(make_plan(config))
    return _measure_rates(plan, splits).seconds(images_seen(plan, len(splits.train)))


def measure_rates(config: RunConfig) -> Rates:
    """Measure a run on this machine and on the configuration's data."""
    return _measure_rates(*load_data(make_plan(config)))


def images_seen(plan: Plan, images: int) -> int:
    """Images that a run sees in training on a data set of `images`, epochs counted."""
    train = plan.config.train
    if not plan.objective.trains:
        return 0
    return train.epochs * (images // train.batch_size) * train.batch_size


def _measure_rates(plan: Plan, splits: Splits) -> Rates:
    start = time.perf_counter()
    state = build_state(plan, splits)
    _write_outputs(plan, splits, state)
    overhead = time.perf_counter() - start
    if not plan.objective.trains:
        return Rates(overhead, 0.0, _probing_seconds(plan, splits, state))
    per_image = seconds_per_step(plan, splits, state, MEASURED_STEPS) / plan.config.train.batch_size
    probing = _probing_seconds(plan, splits, state) + _online_seconds(plan, splits, state)
    return Rates(overhead, per_image, probing)


def _write_outputs(plan: Plan, splits: Splits, state: TrainState) -> None:
    """Do what a run does after its probes, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = replace(plan, config=plan.config.model_copy(update={"output": folder}))
        temporary.folder.mkdir(parents=True)
        write_artifacts(temporary, splits, probe_splits(plan, splits), state, [])
    measure_masks(plan.config, plan.strategy, splits, state)
    if plan.objective.trains:
        training_gflops_per_image(plan.config, splits, plan.strategy, state)


def _probing_seconds(plan: Plan, splits: Splits, state: TrainState) -> float:
    """Of MEASURED_PROBES on all images, by a line through the times on two small parts of them."""
    probes = [probe for probe in plan.probes if probe.name in MEASURED_PROBES]
    probed = probe_splits(plan, splits)
    sizes, times = [], []
    for count in PROBE_SIZES:
        subset = _subset(probed, count)
        start = time.perf_counter()
        subject = Subject(state.head.encoder, subset, plan.config.system, plan.config.seed)
        for probe in probes:
            probe(subject)
        times.append(time.perf_counter() - start)
        sizes.append(len(subset.train) + len(subset.test))
    slope = max(0.0, times[1] - times[0]) / max(1, sizes[1] - sizes[0])
    return times[1] + slope * (len(probed.train) + len(probed.test) - sizes[1])


def _online_seconds(plan: Plan, splits: Splits, state: TrainState) -> float:
    """Of all readings of the online k-NN probe, from one on a small part of the images."""
    probed, train = probe_splits(plan, splits), plan.config.train
    start = time.perf_counter()
    OnlineKnn(_subset(probed, PROBE_SIZES[0]), plan.config.system)(state.head.encoder)
    per_image = (time.perf_counter() - start) / min(PROBE_SIZES[0], len(probed.train))
    readings = -(-train.epochs // train.online_every)
    return readings * per_image * (min(BANK_IMAGES, len(probed.fit)) + min(QUERY_IMAGES, len(probed.validation)))


def _subset(splits: Splits, count: int) -> Splits:
    """At most `count` images of train and of test, with the classes in proportion."""
    device = splits.train.labels.device

    def take(split: Split) -> Images:
        return split.take(stratified_order(split.labels.cpu())[:count].to(device)).to(torch.device("cpu"))

    train, test = take(splits.train), take(splits.test)
    subset = build_splits(splits.name, train, test, classes=splits.classes, fingerprint=splits.fingerprint).to(device)
    return replace(subset, mean=splits.mean, std=splits.std)


def seconds_per_step(plan: Plan, splits: Splits, state: TrainState, steps: int) -> float:
    """The median over `steps` steps of training, which change `state`."""
    config, device = plan.config, splits.train.labels.device
    index = torch.arange(config.train.batch_size, device=device)
    times = []
    trainer = Trainer(config, splits, plan.strategy, state, Stopwatch(device))
    state.head.train()
    for _ in range(steps):
        start = time.perf_counter()
        trainer.step(index, 0, 0.5, 0.5)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
