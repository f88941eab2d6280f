"""How long a set of runs will take: from records of the same kind where there are any, else from a few steps."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from maskbench.config.schema import RunConfig
from maskbench.data.splits import Images, Split, Splits, assemble, stratified_order
from maskbench.probe import Subject
from maskbench.probes.online_knn import ASKED, BANK, OnlineKnn
from maskbench.runs.artifacts import finished, write_files
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.plan import Plan, asked_about, build, load_splits, plan
from maskbench.runs.run_facts import diagnostics
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.loop import outcome_of, update
from maskbench.training.schedules import steps_per_epoch
from maskbench.training.train_state import State

TRIED = 5  # steps, of which the median counts
COUNTED = frozenset({"knn", "linear"})  # probes whose time grows with the images and is worth measuring
PROBED = (500, 1_500)  # images of train, and of test, for which it is measured


@dataclass(frozen=True)
class Expected:
    """A run of a set: what there is of it, and the seconds that it still takes: 0 where it is done, None if unknown."""

    planned: Plan
    state: Literal["done", "started", "open"]
    seconds: float | None


def expect(planned: Sequence[Plan], trial: Callable[[RunConfig], float | None]) -> list[Expected]:
    """What each run will take on this machine alone: about, for the same run takes more beside others. A run whose like
    (another seed) is done takes what that took, from its record; others go through `trial`, which returns
    what `seconds_for` does, or None where that fails. Interrupted ones are counted whole."""
    known: dict[str, list[float]] = {}
    tried: dict[str, float | None] = {}
    states: list[Literal["done", "started", "open"]] = []
    for each in planned:
        record = finished(each.folder)
        started = Checkpoints(each.folder).newest.exists()
        states.append("done" if record is not None else "started" if started else "open")
        if record is not None:
            known.setdefault(_kind(each), []).append(record.metrics["cost/wall_s"])
    expected = []
    for each, state in zip(planned, states, strict=True):
        kind = _kind(each)
        seconds: float | None = 0.0
        if state != "done" and kind in known:
            seconds = statistics.median(known[kind])
        elif state != "done":
            if kind not in tried:
                tried[kind] = trial(each.config)
            seconds = tried[kind]
        expected.append(Expected(each, state, seconds))
    return expected


def _kind(planned: Plan) -> str:
    return f"{planned.work} {planned.config.train.epochs}"


@dataclass(frozen=True)
class Rates:
    """Of a kind of run on one device, in seconds: to begin and end it, to train on an image, to ask all probes,
    online readings among them."""

    around_s: float
    image_s: float
    probing_s: float

    def seconds(self, images: int) -> float:
        """Of a run that sees so many images in training."""
        return self.around_s + images * self.image_s + self.probing_s


def seconds_for(config: RunConfig) -> float:
    """Seconds for a run, by a few steps of its training and probes of some images."""
    planned, splits = load_splits(plan(config))
    return rates(planned, splits).seconds(images_seen(planned, len(splits.train)))


def rates_for(config: RunConfig) -> Rates:
    """Measured here, on the configuration's data."""
    return rates(*load_splits(plan(config)))


def images_seen(planned: Plan, images: int) -> int:
    """By a run in training, on a data set of so many."""
    train = planned.config.train
    if not planned.objective.trains:
        return 0
    return train.epochs * (images // train.batch_size) * train.batch_size


def rates(planned: Plan, splits: Splits) -> Rates:
    """Measured here."""
    start = time.perf_counter()
    state = build(planned, splits)
    _finish(planned, splits, state)
    around = time.perf_counter() - start
    if not planned.objective.trains:
        return Rates(around, 0.0, _probing_seconds(planned, splits, state))
    image = seconds_per_step(planned, splits, state, TRIED) / planned.config.train.batch_size
    probing = _probing_seconds(planned, splits, state) + _reading_seconds(planned, splits, state)
    return Rates(around, image, probing)


def _finish(planned: Plan, splits: Splits, state: State) -> None:
    """What a run does after its probes, with nothing kept."""
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = replace(planned, config=planned.config.model_copy(update={"output": folder}))
        elsewhere.folder.mkdir(parents=True)
        write_files(elsewhere, splits, asked_about(planned, splits), state, [])
    diagnostics(planned.config, planned.strategy, splits, state)
    if planned.objective.trains:
        training_gflops_per_image(planned.config, splits, planned.strategy, state)


def _probing_seconds(planned: Plan, splits: Splits, state: State) -> float:
    """Of the probes in COUNTED on all of `splits`, by a line through what they take on two small parts of it."""
    probes = [probe for probe in planned.probes if probe.name in COUNTED]
    asked = asked_about(planned, splits)
    sizes, times = [], []
    for share in PROBED:
        part = _part(asked, share)
        start = time.perf_counter()
        subject = Subject(state.head.encoder, part, planned.config.system, planned.config.seed)
        for probe in probes:
            probe(subject)
        times.append(time.perf_counter() - start)
        sizes.append(len(part.train) + len(part.test))
    slope = max(0.0, times[1] - times[0]) / max(1, sizes[1] - sizes[0])
    return times[1] + slope * (len(asked.train) + len(asked.test) - sizes[1])


def _reading_seconds(planned: Plan, splits: Splits, state: State) -> float:
    """Of all online readings, from one of a small part."""
    asked, train = asked_about(planned, splits), planned.config.train
    start = time.perf_counter()
    OnlineKnn(_part(asked, PROBED[0]), planned.config.system)(state.head.encoder)
    seconds = (time.perf_counter() - start) / min(PROBED[0], len(asked.train))
    readings = -(-train.epochs // train.online_every)
    return readings * seconds * (min(BANK, len(asked.fit)) + min(ASKED, len(asked.validation)))


def _part(splits: Splits, count: int) -> Splits:
    """`count` images of train and as many of test, or all where there are fewer, the classes in proportion."""
    device = splits.train.labels.device

    def some(split: Split) -> Images:
        return split.take(stratified_order(split.labels.cpu())[:count].to(device)).to(torch.device("cpu"))

    train, test = some(splits.train), some(splits.test)
    part = assemble(splits.name, train, test, classes=splits.classes, fingerprint=splits.fingerprint).to(device)
    return replace(part, mean=splits.mean, std=splits.std)


def seconds_per_step(planned: Plan, splits: Splits, state: State, steps: int) -> float:
    """The median over `steps` steps of training, which change `state`."""
    config, device = planned.config, splits.train.labels.device
    index = torch.arange(config.train.batch_size, device=device)
    times = []
    state.head.train()
    for _ in range(steps):
        start = time.perf_counter()
        _, outcome = outcome_of(config, splits, planned.strategy, state, index, 0, 0.5, Stopwatch(device))
        state.optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        update(config, state, steps_per_epoch(config, len(splits.train)))
        state.head.after_step(0.5)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
