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
from maskbench.config.settings import Data, RunConfig
from maskbench.config.specs import Spec
from maskbench.core.grid import Grid
from maskbench.core.rng import derive_seed
from maskbench.core.view import View
from maskbench.data import explain_labels, load_dataset
from maskbench.data.label_table import LabelTable, make_table
from maskbench.data.splits import Splits
from maskbench.errors import UsageError
from maskbench.models.encoder import build_encoder
from maskbench.models.encoder_sources import load_encoder_into
from maskbench.objective import Objective
from maskbench.objectives.compatibility import incompatibility_reason
from maskbench.probe import Probe
from maskbench.runs.useless_masks import count_useless_masks
from maskbench.runtime.hardware import configure_torch, resolve_auto
from maskbench.runtime.plugin_exits import exits_as_errors
from maskbench.strategy import Strategy
from maskbench.training.crops import sample_crops
from maskbench.training.microbatches import indivisible_reason
from maskbench.training.train_state import TrainState, initial_state
from maskbench.training.views import make_context, make_view

EXAMPLES = 8  # images in masks.png
FITTED_ON = 256  # images that a strategy which fits something to the data gets
RATIO = 0.75  # of the matched regime, unless another is given


@dataclass(frozen=True)
class Plan:
    """A run that can be carried out.

    Attributes:
        config: Its configuration, with no `auto` and no default left open.
        strategy: What hides or degrades the images.
        objective: What the encoder learns from.
        probes: What the frozen encoder is asked.
    """

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
        """Its row in tables: the strategy; for controls the objective."""
        return self.objective.name if self.objective.control else self.strategy.name

    @property
    def is_trial(self) -> bool:
        """Whether it is a trial that chooses settings, and must not see test."""
        return self.config.tuning is not None and self.config.tuning.trial

    @property
    def kind(self) -> str:
        """The run's id without its seed."""
        return self.run_id.rpartition("-s")[0]

    @property
    def cost_key(self) -> str:
        """Everything that decides what a step of its training costs."""
        content = self.config.model_dump(mode="json", include={"strategy", "objective", "data", "model", "system"})
        del content["system"]["device"], content["data"]["data_dir"]
        return json.dumps([content, self.config.train.batch_size], sort_keys=True)

    @property
    def place(self) -> tuple[Path, *tuple[str, ...]]:
        """The results folder, and the folders in it that lead to its files."""
        output = Path(self.config.output)
        return (output.parent, output.name, "runs", self.run_id) if self.is_trial else (output, "runs", self.run_id)

    @property
    def folder(self) -> Path:
        """Folder of its files."""
        return Path(*self.place)


def make_plan(config: RunConfig) -> Plan:
    """Resolve names, regime and `auto`. UsageError for a strategy and an objective that do not go together."""
    strategy = strategies.REGISTRY.get(config.strategy.name)()
    objective = objectives.REGISTRY.create(config.objective.name, **config.objective.parameters)
    reason = incompatibility_reason(strategy, objective)
    if reason is not None:
        raise UsageError(reason)
    if objective.control:
        config = config.model_copy(update={"regime": "paper", "ratio": None})
    if config.regime == "matched":
        config = config.model_copy(update={"ratio": config.ratio or RATIO})
        strategy = strategy.matched(config.ratio or RATIO)
    strategy = strategy.replace(**config.strategy.parameters)
    chosen = tuple(probes.REGISTRY.create(spec.name, **spec.parameters) for spec in config.probes)
    config = resolve_auto(config).model_copy(
        update={
            "strategy": Spec(name=strategy.name, parameters=strategy.parameters),
            "objective": Spec(name=objective.name, parameters=objective.parameters),
            "probes": [Spec(name=probe.name, parameters=_without_none(probe.parameters)) for probe in chosen],
        }
    )
    return Plan(config, strategy, objective, chosen)


def _without_none(parameters: dict[str, Any]) -> dict[str, Any]:
    """Without what is None, so that a new option of a probe leaves the names of finished runs as they are."""
    return {name: value for name, value in parameters.items() if value is not None}


def load_data(plan: Plan) -> tuple[Plan, Splits]:
    """Set torch up, load the data onto the device, and shrink the batch where it is larger than the data.

    UsageError where the objective cannot learn from the data.
    """
    config, data = plan.config, plan.config.data
    configure_torch(config.system)
    labels = _find_labels(data) if data.probe_dataset is None else None  # they are of the data that are probed
    seed = _order_seed(config)
    splits = load_dataset(
        data.dataset, data.img_size, data.in_chans, data.limit, data.data_dir, data.memory_gib, labels, seed
    )
    splits = replace(splits, mean=_moment("mean", data.mean, splits.mean), std=_moment("std", data.std, splits.std))
    if plan.objective.needs_labels and not splits.classes:
        raise UsageError(f"objective {plan.objective.name} needs labels, which {splits.name} has not")
    images = len(training_splits(plan, splits).train)
    if images < config.train.batch_size:
        smaller = config.train.model_copy(update={"batch_size": images})
        plan = replace(plan, config=config.model_copy(update={"train": smaller}))
    train = plan.config.train
    reason = indivisible_reason(train.batch_size, train.accumulate) if plan.objective.trains else None
    if reason is not None:
        raise UsageError(reason)
    return plan, splits.to(torch.device(config.system.device))


def _order_seed(config: RunConfig) -> int:
    """By which images are kept and held out: the run's with `resample`, else the same for all runs."""
    return config.seed if config.data.resample else 0


def _find_labels(data: Data) -> str | LabelTable | None:
    """The column or the table of labels that the settings name."""
    if data.labels is not None:
        return make_table(data.labels, data.file_column, data.label_column, data.split_column, data.group_column)
    given = [name for name in ("file_column", "split_column", "group_column") if getattr(data, name) is not None]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} names a column of --labels; give that file, too")
    return data.label_column


def training_splits(plan: Plan, splits: Splits) -> Splits:
    """The data to train on: without the validation images where the objective reads labels."""
    return splits.without_validation() if plan.objective.needs_labels else splits


def _moment(name: str, given: list[float] | None, known: Tensor) -> Tensor:
    if given is not None and len(given) != len(known):
        raise UsageError(f"data.{name}={given} should have a number for each of the {len(known)} channels")
    return known if given is None else torch.tensor(given)


def probe_splits(plan: Plan, splits: Splits) -> Splits:
    """The data to probe on, on the device and with the normalisation of `splits`, the run's.

    Where no probe needs labels and there are none, the held-out part of the training images stands for test.
    UsageError where a probe needs labels that the data lack.
    """
    data = plan.config.data
    if data.probe_dataset is not None:
        size, labels, seed = data.img_size, _find_labels(data), _order_seed(plan.config)
        other = load_dataset(
            data.probe_dataset, size, data.in_chans, None, data.data_dir, data.memory_gib, labels, seed
        )
        splits = replace(other.to(splits.train.labels.device), mean=splits.mean, std=splits.std)
    if splits.classes:
        return splits
    needing = [probe.name for probe in plan.probes if probe.needs_labels]
    if needing:
        raise UsageError(
            f"the images of {splits.name} have no labels to probe with ({', '.join(needing)}): "
            f"{explain_labels(data.probe_dataset or data.dataset, data.data_dir)}; or give --probe-dataset, or "
            f"--probes features"
        )
    held_out = splits.validation
    return replace(splits, test=splits.train.subset(held_out) if isinstance(held_out, Tensor) else held_out)


def build_state(plan: Plan, splits: Splits) -> TrainState:
    """Everything trainable, each part from a random stream of its own: strategies share the encoder's first weights."""
    config = plan.config
    rows, cols = (side // config.model.patch_size for side in config.data.img_size)
    grid = Grid(rows, cols, config.model.patch_size)
    device, plain = torch.device(config.system.device), config.system.attention == "plain"
    channels = config.data.in_chans
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "init", "encoder"))
        encoder = build_encoder(config.model.name, grid, channels, config.model.kwargs, plain_attention=plain)
        init = config.model.init
        if init is not None:
            load_encoder_into(encoder.vit, init.source, init.digest)
        torch.manual_seed(derive_seed(config.seed, "init", "objective"))
        head = plan.objective.build(encoder, grid, channels, len(splits.classes), plain_attention=plain)
        torch.manual_seed(derive_seed(config.seed, "init", "strategy"))
        module: nn.Module | None = plan.strategy.build(
            sample_crops(config, plan.strategy, splits, FITTED_ON).images, grid, encoder.width
        )
    head = head.to(device)
    if config.system.compile:
        head.compile(dynamic=False)
    return initial_state(config, head, plan.strategy, None if module is None else module.to(device))


def check_before_start(plan: Plan, splits: Splits, state: TrainState) -> None:
    """Try some views and ask every probe, so that what they refuse is known before anything is written.

    UsageError where the run cannot be carried out.
    """
    if "attention" in plan.strategy.needs and state.head.encoder.vit.cls_token is None:
        raise UsageError(f"{plan.strategy.name} needs a class token, which {plan.config.model.name} has not")
    probed = probe_splits(plan, splits)
    for probe in plan.probes:
        reason = probe.incompatibility_reason(state.head.encoder, probed)
        if reason is not None:
            raise UsageError(reason)
    if plan.config.train.accumulate > 1 and (plan.objective.compares_images or state.trains_strategy):
        name = plan.objective.name if plan.objective.compares_images else plan.strategy.name
        raise UsageError(
            f"{name} compares the images of a batch with each other, so a batch cannot come in parts; "
            f"drop train.accumulate, or share the batch among processes with torchrun"
        )
    useless = None
    try:
        with exits_as_errors():
            view = example_view(plan, splits, state)[1]
            if plan.objective.trains:
                useless = count_useless_masks(plan.config, plan.strategy, splits, state)
    except ValueError as error:
        raise UsageError(f"strategy {plan.strategy.name}: {error}") from error
    except Exception as error:
        raise UsageError(
            f"strategy {plan.strategy.name} raised {type(error).__name__}: {error}; "
            f"`maskbench check` shows more of what it does"
        ) from error
    reason = incompatibility_reason(plan.strategy, plan.objective, view)
    if reason is not None:
        raise UsageError(reason)
    if view.length == 0:
        raise UsageError(f"{plan.strategy.name} hides all {state.head.encoder.grid.size} patches; lower its ratio")
    if useless is not None and useless.reason_to_refuse is not None:
        raise UsageError(useless.reason_to_refuse)


@torch.no_grad()
def example_view(plan: Plan, splits: Splits, state: TrainState) -> tuple[Tensor, View]:
    """A few training images, and the strategy's view of them as at the end of training."""
    config, strategy = plan.config, plan.strategy
    crops = sample_crops(config, strategy, splits, EXAMPLES, colours=state.head.recipe.full[0])
    context = make_context(config, strategy, state, crops, epoch=0, progress=1.0)
    return crops.images, make_view(strategy, crops, context)
