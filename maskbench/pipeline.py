"""One run, from configuration to record."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from maskbench import objective as objectives
from maskbench import probe as probes
from maskbench import strategy as strategies
from maskbench.collapse import signs_of_collapse
from maskbench.config import RunConfig, Spec
from maskbench.crops import sample
from maskbench.data import load
from maskbench.data.splits import Splits
from maskbench.draws import seed_for
from maskbench.errors import UsageError
from maskbench.fit import unfit
from maskbench.grid import Grid
from maskbench.measures import about, costs, diagnostics, model_facts
from maskbench.objective import Head, Objective
from maskbench.online import OnlineKnn
from maskbench.pictures import masks_figure, save
from maskbench.pretrain import Diverged, State, context_for, degraded, new_state, pretrain, steps_per_epoch
from maskbench.probe import Probe, features_of
from maskbench.record import RunRecord, environment, read_record, write_atomically
from maskbench.reporter import Reporter
from maskbench.strategy import Strategy
from maskbench.system import peak_memory_mib, reset_peak_memory, resolve
from maskbench.timing import Stopwatch
from maskbench.view import View
from maskbench.vit import build_encoder

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
        return f"{self.strategy.name}-{self.config.identity(self.strategy.version)}-s{self.config.seed}"

    @property
    def label(self) -> str:
        """What a table calls it: the strategy, for controls the objective."""
        return self.objective.name if self.objective.control else self.strategy.name

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
            "probes": [Spec(name=probe.name, parameters=probe.parameters) for probe in chosen],
        }
    )
    return Plan(config, strategy, objective, chosen)


def run(config: RunConfig, *, force: bool = False, reporter: Reporter | None = None) -> RunRecord:
    """Pre-train, probe, record. A run that is already recorded is read, not repeated, unless `force`.

    UsageError, before anything is written, for whatever the user can put right.
    """
    started, reporter = time.perf_counter(), reporter or Reporter()
    planned, splits = load_splits(plan(config))
    config, device = planned.config, torch.device(planned.config.system.device)
    if not force and (planned.folder / "record.json").exists():
        reporter.note(f"{planned.run_id} is done already; --force repeats it")
        return read_record(planned.folder / "record.json")
    reset_peak_memory(device)
    state = build(planned, splits)
    preflight(planned, splits, state)
    folder = writable(planned.folder)
    trains = planned.objective.trains
    per_epoch = steps_per_epoch(config, len(splits.train))
    reporter.begin(planned, splits, config.train.epochs * per_epoch if trains else 0)

    watch, online = Stopwatch(device), OnlineKnn(splits, config.system)
    status, error = "complete", None
    warnings: dict[str, None] = {}

    def look_out(row: dict[str, float]) -> None:
        for sign in signs_of_collapse(row):
            if sign not in warnings:
                reporter.note(f"{planned.run_id}: epoch {row['epoch']}: {sign}")
            warnings[sign] = None

    try:
        if trains:
            pretrain(
                config, splits, planned.strategy, state, watch,
                online=lambda: online(state.head.encoder), on_step=reporter.step, on_epoch=look_out,
            )  # fmt: skip
    except Diverged as failure:
        status, error = "diverged", str(failure)
    reporter.probing()
    results = answers(planned, splits, state.head) if status == "complete" else []
    memory = peak_memory_mib(device)
    metrics = {name: value for result in results for name, value in result.metrics.items()}
    record = RunRecord(
        run_id=planned.run_id,
        status=status,  # type: ignore[arg-type]
        error=error,
        config=config.model_dump(mode="json"),
        strategy={**about(planned.strategy), "distribution": strategies.REGISTRY.origin(planned.strategy.name)},
        objective=about(planned.objective),
        dataset={
            "name": splits.name,
            "fingerprint": splits.fingerprint,
            "sizes": splits.sizes,
            "mean": splits.mean.tolist(),
            "std": splits.std.tolist(),
        },
        model=model_facts(config, state.head),
        seed=config.seed,
        metrics=metrics | costs(config, planned.strategy, splits, state, watch),
        protocols={probe.name: probe.version for probe in planned.probes},
        diagnostics=diagnostics(config, planned.strategy, splits, state),
        curve=state.curve,
        warnings=list(warnings),
        chosen={name: value for result in results for name, value in result.chosen.items()},
        environment=environment(config.system.model_dump(mode="json")),
    )
    record.metrics["cost/peak_memory_mib"] = memory
    predictions = {name: value for result in results for name, value in result.predictions.items()}
    write_files(folder, planned, splits, state, predictions)
    record.metrics["cost/wall_s"] = time.perf_counter() - started
    record.write(folder / "record.json")
    reporter.end(record)
    return record


def run_all(configs: list[RunConfig], *, force: bool = False, reporter: Reporter | None = None) -> list[RunRecord]:
    """Every run in turn. All are checked before the first is started; one that diverges does not stop the others."""
    for config in configs:
        planned, splits = load_splits(plan(config))
        preflight(planned, splits, build(planned, splits))
    return [run(config, force=force, reporter=reporter) for config in configs]


def load_splits(planned: Plan) -> tuple[Plan, Splits]:
    """The data on the device, and the plan with a batch no larger than the data."""
    config, data = planned.config, planned.config.data
    splits = load(data.dataset, data.img_size, data.in_chans, data.limit, data.data_dir)
    if len(splits.train) < config.train.batch_size:
        smaller = config.train.model_copy(update={"batch_size": len(splits.train)})
        planned = replace(planned, config=config.model_copy(update={"train": smaller}))
    return planned, splits.to(torch.device(config.system.device))


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
    try:
        view = pictured(planned, splits, state)[1]
    except ValueError as error:
        raise UsageError(f"strategy {planned.strategy.name}: {error}") from error
    reason = unfit(planned.strategy, planned.objective, view)
    if reason is not None:
        raise UsageError(reason)
    if view.length == 0:
        raise UsageError(f"{planned.strategy.name} hides all {state.head.encoder.grid.size} patches; lower its ratio")


@torch.no_grad()
def pictured(planned: Plan, splits: Splits, state: State) -> tuple[Tensor, View]:
    """The first PICTURED training images, and the strategy's view of them as at the end of the training."""
    config, strategy = planned.config, planned.strategy
    batch = sample(config, strategy, splits, PICTURED, colours=state.head.recipe.full[0])
    context = context_for(config, strategy, state, batch, epoch=0, progress=1.0)
    return batch.images, degraded(strategy, batch, context)


def writable(folder: Path) -> Path:
    """`folder`, made if need be; UsageError where nothing can be written."""
    try:
        write_atomically(folder / ".writable", "")
        (folder / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror}); choose another --output") from None
    return folder


def answers(planned: Plan, splits: Splits, head: Head) -> list[probes.ProbeResult]:
    """Every probe's result on the frozen encoder."""
    features = features_of(head.encoder, splits, planned.config.system)
    return [probe(features) for probe in planned.probes]


def write_files(folder: Path, planned: Plan, splits: Splits, state: State, predictions: dict[str, Tensor]) -> None:
    """Everything but the record: configuration, curve, test predictions, encoder, picture of the masks."""
    write_atomically(folder / "config.yaml", yaml.safe_dump(planned.config.model_dump(mode="json"), sort_keys=False))
    if state.curve:
        write_atomically(folder / "metrics.csv", pd.DataFrame(state.curve).to_csv(index=False, lineterminator="\n"))
    smallest = np.min_scalar_type(len(splits.classes) - 1)
    compact = {name: value.cpu().numpy().astype(smallest) for name, value in predictions.items()}
    labels = splits.test.labels.cpu().numpy().astype(smallest)
    np.savez_compressed(folder / "predictions.npz", allow_pickle=False, labels=labels, **compact)
    weights = {name: value.cpu().contiguous() for name, value in state.head.encoder.vit.state_dict().items()}
    about_model = json.dumps(model_facts(planned.config, state.head))
    save_file(weights, folder / "encoder.safetensors", {"model": about_model, "run_id": planned.run_id})
    clean, view = pictured(planned, splits, state)
    figure = masks_figure({planned.label: view}, clean, state.head.encoder.grid, splits.mean, splits.std)
    save(figure, folder / "masks.png")
