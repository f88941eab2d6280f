"""How many epochs a budget of seconds or GFLOPs allows: known before the first step, for the schedule depends on it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import yaml

from maskbench.config.schema import RunConfig, parse
from maskbench.errors import Failure, UsageError
from maskbench.runs.plan import Plan, build, load_splits, plan
from maskbench.runs.run import checked
from maskbench.sweeps.time_estimate import seconds_per_step
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.schedules import steps_per_epoch

TRIED = 25  # steps, of which the median counts


def fitted(
    configs: Sequence[RunConfig],
    measure: Callable[[Callable[[RunConfig], float], RunConfig], float],
    epochs: dict[str, int],
) -> list[RunConfig]:
    """The runs with the number of whole epochs that comes nearest to their budgets; runs without one as they are.

    The share of warm-up stays. Runs of several seeds get the same epochs, and those that were begun keep theirs. An
    epoch in GFLOPs is counted, which is the same everywhere; in seconds it is the median of TRIED steps here and now,
    so that what a training took differs a little from its budget, and is in its record. measure: calls a function
    with a configuration, where that is to be done. UsageError where a budget is less than half an epoch.
    """
    found = []
    for config in configs:
        if config.train.budget is None or not plan(config).objective.trains:
            found.append(config)
            continue
        planned, _ = load_splits(plan(config))
        kind = _kind(planned)
        if kind not in epochs:
            begun = _begun(Path(config.output))
            ((unit, amount),) = config.train.budget.items()
            epochs |= {kind: begun[kind]} if kind in begun else {}
        if kind not in epochs:
            checked(config)
            try:
                each = measure(partial(_epoch, unit), config)
            except (UsageError, Failure):
                raise
            except Exception as error:
                raise Failure(f"{planned.label}: a step of it cannot be measured: {error}") from error
            if amount < each / 2:
                raise UsageError(
                    f"{planned.label}: a budget of {amount:g} {unit} is less than half an epoch, which takes {each:.3g}"
                )
            epochs[kind] = max(1, round(amount / each))
        warmup = round(config.train.warmup_epochs * epochs[kind] / config.train.epochs, 6)
        train = config.train.model_copy(update={"epochs": epochs[kind], "warmup_epochs": warmup})
        found.append(config.model_copy(update={"train": train}))
    return found


def _epoch(unit: str, config: RunConfig) -> float:
    """Seconds or GFLOPs of an epoch of training."""
    planned, splits = load_splits(plan(config))
    state, steps = build(planned, splits), steps_per_epoch(planned.config, len(splits.train))
    if unit == "seconds":
        return seconds_per_step(planned, splits, state, TRIED) * steps
    per_image = training_gflops_per_image(planned.config, splits, planned.strategy, state)
    return per_image * planned.config.train.batch_size * steps


def _kind(planned: Plan) -> str:
    return f"{planned.work} {planned.config.train.budget}"


def _begun(output: Path) -> dict[str, int]:
    """Epochs by kind of the runs of a folder that were begun."""
    begun = {}
    for path in sorted(output.glob("runs/*/config.yaml")):
        with suppress(UsageError):  # of another version, or a plugin that is not here: not one of these
            planned = plan(parse(yaml.safe_load(path.read_text())))
            begun[_kind(planned)] = planned.config.train.epochs
    return begun
