"""maskbench from Python: any strategy in anybody's training loop, runs, and their encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from maskbench.config import schema as settings_of
from maskbench.config.schema import RunConfig
from maskbench.errors import UsageError
from maskbench.record import RunRecord, Unreadable, read_record
from maskbench.strategy import REGISTRY, Strategy
from maskbench.training.degrade import degrade

__all__ = ["create_strategy", "degrade", "list_strategies", "load_encoder", "run"]


def list_strategies() -> list[str]:
    """The names of all strategies that can be created."""
    return REGISTRY.names()


def create_strategy(name: str, **parameters: Any) -> Strategy:
    """A strategy by name, e.g. `create_strategy("gmml", fill="zeros")`.

    UsageError (a ValueError) for an unknown name or parameter, with the nearest ones, and for a value out of range.
    """
    return REGISTRY.create(name, **parameters)


def run(config: RunConfig | Mapping[str, Any]) -> RunRecord:
    """Pre-train, probe and record one run, as `maskbench run` does; a run that is already recorded is read.

    config: a RunConfig, or settings (nested, or by dotted path) laid over those of their "preset", "quick" if none is
    named: `run({"strategy": "gmml", "train.epochs": 3})`. UsageError for what the user can put right.
    """
    from maskbench.runs import run
    from maskbench.sweeps.budget import fitted

    if not isinstance(config, RunConfig):
        settings = dict(config)
        name = settings.pop("preset", "quick")
        start = {"output": f"results/{name}", **settings_of.preset(name)}
        config = settings_of.parse(settings_of.merge(start, settings))
    (fitting,) = fitted([config], lambda function, given: function(given), {})
    return run.run(fitting)


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
