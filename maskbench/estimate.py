"""How long a set of runs will take: from records of the same kind where there are any, else from a few steps."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from maskbench.checkpoint import Checkpoints
from maskbench.config import RunConfig
from maskbench.data.splits import Splits
from maskbench.folder import finished
from maskbench.plan import Plan, build, load_splits, plan
from maskbench.pretrain import State, outcome_of, steps_per_epoch, update
from maskbench.probe import extract
from maskbench.timing import Stopwatch

TRIED = 5  # steps, of which the median counts
ENCODED = 1_000  # images whose features are timed


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


def seconds_for(config: RunConfig) -> float:
    """Seconds for a run, by a few steps of its training and the features of some images."""
    planned, splits = load_splits(plan(config))
    state = build(planned, splits)
    some = splits.train.take(torch.arange(min(ENCODED, len(splits.train)), device=splits.train.labels.device))
    start = time.perf_counter()
    extract(state.head.encoder, some, splits, planned.config.system)
    encoding = (time.perf_counter() - start) / len(some) * (len(splits.train) + len(splits.test))
    probing = 2 * encoding  # the probes themselves take about as long
    if not planned.objective.trains:
        return probing
    steps = planned.config.train.epochs * steps_per_epoch(planned.config, len(splits.train))
    return seconds_per_step(planned, splits, state, TRIED) * steps + probing


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
