"""What a run is going to be: everything resolved, built and tried before anything is written."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskbench import objective as objectives
from maskbench import probe as probes
from maskbench import strategy as strategies
from maskbench.config.schema import RunConfig, Spec
from maskbench.core.grid import Grid
from maskbench.core.rng import seed_for
from maskbench.core.view import View
from maskbench.data import load
from maskbench.data.splits import Splits
from maskbench.errors import UsageError
from maskbench.models.encoder import build_encoder
from maskbench.objective import Objective
from maskbench.objectives.compatibility import unfit
from maskbench.probe import Probe
from maskbench.runtime.hardware import resolve, settle
from maskbench.strategy import Strategy
from maskbench.training.crops import sample
from maskbench.training.microbatches import refusal
from maskbench.training.train_state import State, new_state
from maskbench.training.views import context_for, degraded

PICTURED = 8  # images in masks.png
FITTED_ON = 256  # images that a strategy which fits something to the data gets
RATIO = 0.75  # of the matched regime, unless another is given


@dataclass(frozen=True)
class Plan:
    """A run that can be done: its configuration without any `auto` or default left open, and its components."""

    config: RunConfig
    strategy: Strategy
    objective: Objective
    probes: tuple[Probe, ...]

    @property
    def run_id(self) -> str:
        """<strategy>-<hash8>-s<seed>."""
        identity = self.config.identity(self.strategy.version, self.objective.version)
        return f"{self.strategy.name}-{identity}-s{self.config.seed}"

    @property
    def label(self) -> str:
        """What a table calls it: the strategy, for controls the objective."""
        return self.objective.name if self.objective.control else self.strategy.name

    @property
    def trial(self) -> bool:
        """Whether it serves the choice of settings, and must not see test."""
        return self.config.tuning is not None and self.config.tuning.trial

    @property
    def kind(self) -> str:
        """What it shares with the same run of other seeds."""
        return self.run_id.rpartition("-s")[0]

    @property
    def work(self) -> str:
        """All that decides what a step of its training costs."""
        content = self.config.model_dump(mode="json", include={"strategy", "objective", "data", "model", "system"})
        del content["system"]["device"], content["data"]["data_dir"]
        return json.dumps([content, self.config.train.batch_size], sort_keys=True)

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return Path(self.config.output) / "runs" / self.run_id


def plan(config: RunConfig) -> Plan:
    """Resolve names, regime and `auto`. UsageError for a strategy and an objective that do not go together."""
    strategy = strategies.REGISTRY.get(config.strategy.name)()
    objective = objectives.REGISTRY.create(config.objective.name, **config.objective.parameters)
    reason = unfit(strategy, objective)
    if reason is not None:
        raise UsageError(reason)
    if objective.control:
        config = config.model_copy(update={"regime": "paper", "ratio": None})
    if config.regime == "matched":
        config = config.model_copy(update={"ratio": config.ratio or RATIO})
        strategy = strategy.matched(config.ratio or RATIO)
    strategy = strategy.replace(**config.strategy.parameters)
    chosen = tuple(probes.REGISTRY.create(spec.name, **spec.parameters) for spec in config.probes)
    config = resolve(config).model_copy(
        update={
            "strategy": Spec(name=strategy.name, parameters=strategy.parameters),
            "objective": Spec(name=objective.name, parameters=objective.parameters),
            "probes": [Spec(name=probe.name, parameters=_given(probe.parameters)) for probe in chosen],
        }
    )
    return Plan(config, strategy, objective, chosen)


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    """Without what is None, so that a new option of a probe leaves the names of finished runs as they are."""
    return {name: value for name, value in parameters.items() if value is not None}


def load_splits(planned: Plan) -> tuple[Plan, Splits]:
    """The data on the device, which is settled first, and the plan with a batch no larger than the data. UsageError
    where the objective cannot learn from them."""
    config, data = planned.config, planned.config.data
    settle(config.system)
    splits = load(data.dataset, data.img_size, data.in_chans, data.limit, data.data_dir, data.memory_gib)
    splits = replace(splits, mean=_moment("mean", data.mean, splits.mean), std=_moment("std", data.std, splits.std))
    if planned.objective.needs_labels and not splits.classes:
        raise UsageError(f"objective {planned.objective.name} needs labels, which {splits.name} has not")
    if len(splits.train) < config.train.batch_size:
        smaller = config.train.model_copy(update={"batch_size": len(splits.train)})
        planned = replace(planned, config=config.model_copy(update={"train": smaller}))
    train = planned.config.train
    reason = refusal(train.batch_size, train.accumulate) if planned.objective.trains else None
    if reason is not None:
        raise UsageError(reason)
    return planned, splits.to(torch.device(config.system.device))


def _moment(name: str, given: list[float] | None, known: Tensor) -> Tensor:
    if given is not None and len(given) != len(known):
        raise UsageError(f"data.{name}={given} should have a number for each of the {len(known)} channels")
    return known if given is None else torch.tensor(given)


def asked_about(planned: Plan, splits: Splits) -> Splits:
    """The data that the probes are about, on the device of `splits`, the run's, whose normalisation the encoder knows.
    UsageError where they have no labels."""
    data = planned.config.data
    if data.probe_dataset is not None:
        other = load(data.probe_dataset, data.img_size, data.in_chans, None, data.data_dir, data.memory_gib)
        splits = replace(other.to(splits.train.labels.device), mean=splits.mean, std=splits.std)
    if not splits.classes:
        raise UsageError(
            f"the images of {splits.name} have no labels (no train/<class>/<image>, no column label) to probe with; "
            f"give --probe-dataset"
        )
    return splits


def build(planned: Plan, splits: Splits) -> State:
    """Everything trainable, each part from a stream of its own, so strategies share the encoder's first weights."""
    config = planned.config
    rows, cols = (side // config.model.patch_size for side in config.data.img_size)
    grid = Grid(rows, cols, config.model.patch_size)
    device, plain = torch.device(config.system.device), config.system.attention == "plain"
    channels = config.data.in_chans
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.seed, "init", "encoder"))
        encoder = build_encoder(config.model.name, grid, channels, config.model.kwargs, plain_attention=plain)
        torch.manual_seed(seed_for(config.seed, "init", "objective"))
        head = planned.objective.build(encoder, grid, channels, len(splits.classes), plain_attention=plain)
        torch.manual_seed(seed_for(config.seed, "init", "strategy"))
        module: nn.Module | None = planned.strategy.build(
            sample(config, planned.strategy, splits, FITTED_ON).images, grid, encoder.width
        )
    head = head.to(device)
    if config.system.compile:
        head.compile(dynamic=False)
    return new_state(config, head, planned.strategy, None if module is None else module.to(device))


def preflight(planned: Plan, splits: Splits, state: State) -> None:
    """Ask the strategy for one small view, so that what it refuses is said before anything is written."""
    if "attention" in planned.strategy.needs and state.head.encoder.vit.cls_token is None:
        raise UsageError(f"{planned.strategy.name} needs a class token, which {planned.config.model.name} has not")
    asked = asked_about(planned, splits)
    for probe in planned.probes:
        refusal = probe.refuses(state.head.encoder, asked)
        if refusal is not None:
            raise UsageError(refusal)
    if planned.config.train.accumulate > 1 and (planned.objective.couples or state.learns_to_mask):
        name = planned.objective.name if planned.objective.couples else planned.strategy.name
        raise UsageError(
            f"{name} compares the images of a batch with each other, so a batch cannot come in parts; "
            f"drop train.accumulate, or share the batch among processes with torchrun"
        )
    try:
        view = pictured(planned, splits, state)[1]
    except ValueError as error:
        raise UsageError(f"strategy {planned.strategy.name}: {error}") from error
    except Exception as error:
        raise UsageError(
            f"strategy {planned.strategy.name} raised {type(error).__name__}: {error}; "
            f"`maskbench check` shows more of what it does"
        ) from error
    reason = unfit(planned.strategy, planned.objective, view)
    if reason is not None:
        raise UsageError(reason)
    if view.length == 0:
        raise UsageError(f"{planned.strategy.name} hides all {state.head.encoder.grid.size} patches; lower its ratio")


@torch.no_grad()
def pictured(planned: Plan, splits: Splits, state: State) -> tuple[Tensor, View]:
    """PICTURED training images, and the strategy's view of them as at the end of the training."""
    config, strategy = planned.config, planned.strategy
    batch = sample(config, strategy, splits, PICTURED, colours=state.head.recipe.full[0])
    context = context_for(config, strategy, state, batch, epoch=0, progress=1.0)
    return batch.images, degraded(strategy, batch, context)
