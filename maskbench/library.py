"""maskbench from Python: any strategy in anybody's training loop, runs, and their encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskbench import config as settings_of
from maskbench.config import RunConfig
from maskbench.context import SIGNALS, Context
from maskbench.draws import seed_for
from maskbench.errors import UsageError
from maskbench.grid import Grid
from maskbench.record import RunRecord, Unreadable, read_record
from maskbench.strategy import REGISTRY, Strategy
from maskbench.view import View, complete


def list_strategies() -> list[str]:
    """The names of all strategies that can be created."""
    return REGISTRY.names()


def create_strategy(name: str, **parameters: Any) -> Strategy:
    """A strategy by name, e.g. `create_strategy("gmml", fill="zeros")`.

    UsageError (a ValueError) for an unknown name or parameter, with the nearest ones, and for a value out of range.
    """
    return REGISTRY.create(name, **parameters)


def degrade(
    name_or_strategy: str | Strategy,
    images: Tensor,
    *,
    patch_size: int,
    seed: int = 0,
    epoch: int = 0,
    attention: Tensor | None = None,
    features: Tensor | None = None,
    embeddings: Tensor | None = None,
    patch_loss: Tensor | None = None,
    parts: Tensor | None = None,
    source: Tensor | None = None,
    progress: float = 0.0,
    module: nn.Module | None = None,
    **parameters: Any,
) -> View:
    """What a strategy makes of `images` (B, C, H, W), normalised, on any device. No target or weight is left None.

    The draws of a row depend on (seed, epoch, row) alone. The signals are tensors as maskbench.context.SIGNALS says;
    a missing one that the strategy needs is a ValueError that names it. `parameters` are the strategy's. module: what
    the strategy's `build` returned; where it is None, it is built from `seed`, and fitted to `images`.
    """
    strategy = name_or_strategy
    if isinstance(strategy, str):
        strategy = create_strategy(strategy, **parameters)
    elif parameters:
        strategy = strategy.replace(**parameters)
    given = {
        "attention": attention,
        "features": features,
        "embeddings": embeddings,
        "patch_loss": patch_loss,
        "parts": parts,
        "source": source,
    }
    signals = {signal: value for signal, value in given.items() if value is not None}
    wanted = strategy.needs | ({"source"} if strategy.source_scale > 1 else set())
    for signal in sorted(wanted - signals.keys()):
        raise ValueError(f"{strategy.name} needs {signal}=..., a tensor: {SIGNALS[signal]}")
    grid = Grid.of(images, patch_size)
    index = torch.arange(len(images), device=images.device)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # bits and exact sums need float32
        if module is None:
            width = next((signals[name].shape[-1] for name in ("embeddings", "features") if name in signals), 0)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed_for(seed, "init", "strategy"))
                module = strategy.build(images, grid, width)
            module = None if module is None else module.to(images.device)
        context = Context(
            grid, index, seed=seed, epoch=epoch, step=0, progress=progress, module=module, signals=signals
        )
        return complete(strategy(images, context), images, grid, strategy.name)


def run(config: RunConfig | Mapping[str, Any]) -> RunRecord:
    """Pre-train, probe and record one run, as `maskbench run` does; a run that is already recorded is read.

    config: a RunConfig, or settings (nested, or by dotted path) laid over those of their "preset", "quick" if none is
    named: `run({"strategy": "gmml", "train.epochs": 3})`. UsageError for what the user can put right.
    """
    from maskbench import pipeline
    from maskbench.budget import fitted

    if not isinstance(config, RunConfig):
        settings = dict(config)
        name = settings.pop("preset", "quick")
        start = {"output": f"results/{name}", **settings_of.preset(name)}
        config = settings_of.parse(settings_of.merge(start, settings))
    (fitting,) = fitted([config], lambda function, given: function(given), {})
    return pipeline.run(fitting)


def load_encoder(run: str | Path) -> nn.Module:
    """The encoder of a run's folder: a plain timm model in eval mode, without a classifier."""
    import timm
    from safetensors.torch import load_file

    folder = Path(run)
    try:
        model = read_record(folder / "record.json").model
        weights = load_file(folder / "encoder.safetensors")
    except (Unreadable, OSError) as error:
        raise UsageError(f"{folder} is not the folder of a finished run: {error}") from None
    encoder: nn.Module = timm.create_model(model["name"], **model["arguments"])
    encoder.load_state_dict(weights, strict=True)
    return encoder.eval()
