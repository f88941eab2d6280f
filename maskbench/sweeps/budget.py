"""How many epochs a budget of seconds or GFLOPs allows. The schedule depends on it, so it is fixed before training."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from maskbench.config.resolve import parse_config, read_yaml
from maskbench.config.settings import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.runs.plan import Plan, build_state, load_data, make_plan, training_splits
from maskbench.runs.run import try_run
from maskbench.sweeps.time_estimate import seconds_per_step
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.schedules import steps_per_epoch

MEASURED_STEPS = 25  # the median counts

Measure = Callable[[Callable[[RunConfig], float], RunConfig], float]  # calls a function with a configuration


def fit_epochs_to_budgets(configs: Sequence[RunConfig], measure: Measure, epochs: dict[str, int]) -> list[RunConfig]:
    """Give each run the number of whole epochs that comes nearest to its budget.

    The share of warm-up epochs stays. Runs that differ only in their seed get the same number, and runs that were begun
    keep theirs. GFLOPs are counted, which is the same on every machine. Seconds are measured on this machine, so the
    training takes a little more or less than its budget; its record says how long.

    Args:
        configs: The runs; those without a budget, or without training, are returned as they are.
        measure: Calls a function with a configuration, in this process or another.
        epochs: What was found before, by kind of run; new values are added.

    Raises:
        UsageError: A budget is less than half an epoch.
        Failure: A step cannot be measured.
    """
    return [_fit_epochs(config, measure, epochs) for config in configs]


def _fit_epochs(config: RunConfig, measure: Measure, epochs: dict[str, int]) -> RunConfig:
    if config.train.budget is None or not make_plan(config).objective.trains:
        return config
    plan, _ = load_data(make_plan(config))
    key = _budget_key(plan)
    if key not in epochs:
        begun = _epochs_of_begun_runs(Path(config.output))
        epochs[key] = begun[key] if key in begun else _epochs_in_budget(plan.label, config, measure)
    warmup = round(config.train.warmup_epochs * epochs[key] / config.train.epochs, 6)
    train = config.train.model_copy(update={"epochs": epochs[key], "warmup_epochs": warmup})
    return config.model_copy(update={"train": train})


def _epochs_in_budget(label: str, config: RunConfig, measure: Measure) -> int:
    assert config.train.budget is not None, "checked by the caller"
    ((unit, amount),) = config.train.budget.items()
    try_run(config)
    try:
        epoch = measure(partial(_epoch_cost, unit), config)
    except (UsageError, Failure):
        raise
    except Exception as error:
        raise Failure(f"{label}: a step of it cannot be measured: {error}") from error
    if amount < epoch / 2:
        raise UsageError(f"{label}: a budget of {amount:g} {unit} is less than half an epoch, which takes {epoch:.3g}")
    return max(1, round(amount / epoch))


def _epoch_cost(unit: str, config: RunConfig) -> float:
    """Seconds or GFLOPs of an epoch of training."""
    plan, splits = load_data(make_plan(config))
    images = len(training_splits(plan, splits).train)
    state, steps = build_state(plan, splits), steps_per_epoch(plan.config, images)
    if unit == "seconds":
        return seconds_per_step(plan, splits, state, MEASURED_STEPS) * steps
    per_image = training_gflops_per_image(plan.config, splits, plan.strategy, state)
    return per_image * plan.config.train.batch_size * steps


def _budget_key(plan: Plan) -> str:
    """The same for runs that get the same number of epochs."""
    return f"{plan.cost_key} {plan.config.train.budget}"


def _epochs_of_begun_runs(output: Path) -> dict[str, int]:
    """Epochs of the runs in a results folder, by `_budget_key`."""
    begun = {}
    for path in sorted(output.glob("runs/*/config.yaml")):
        with suppress(UsageError):  # of another version, or of a plugin that is not loaded: not one of these
            plan = make_plan(parse_config(read_yaml(path)))
            begun[_budget_key(plan)] = plan.config.train.epochs
    return begun
