"""maskbench from Python: any strategy in anybody's training loop, runs, and their encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.config.settings import RunConfig
from maskbench.errors import UsageError
from maskbench.record import RunRecord, UnreadableRecord, locate_record, read_record
from maskbench.strategy import REGISTRY, Strategy
from maskbench.training.degrade import degrade

__all__ = ["create_strategy", "degrade", "list_strategies", "load_encoder", "run"]


def list_strategies() -> list[str]:
    """The names of all strategies that can be created, in alphabetical order."""
    return REGISTRY.names()


def create_strategy(name: str, **parameters: Any) -> Strategy:
    """A strategy by name, for example `create_strategy("gmml", fill="zeros")`.

    Args:
        name: A registered name; `list_strategies` has them all.
        **parameters: Values that differ from the strategy's defaults.

    Raises:
        UsageError: Unknown name or parameter (the message has the nearest ones), or a value out of range. It is a
            ValueError.
    """
    return REGISTRY.create(name, **parameters)


def run(config: RunConfig | Mapping[str, Any]) -> RunRecord:
    """Pre-train, probe and record one run, as `maskbench run` does. A run that is already recorded is read.

    Args:
        config: A RunConfig, or settings, nested or by dotted path, laid over those of their "preset" (default
            "quick"): `run({"strategy": "gmml", "train.epochs": 3})`.

    Returns:
        The record, as it stands in `<output>/runs/<run-id>/record.json`.

    Raises:
        UsageError: For what the user can put right, before anything is written.
        Failure: The run cannot be finished.
    """
    from maskbench.runs.run import run as run_one
    from maskbench.sweeps.budget import fit_epochs_to_budgets

    if not isinstance(config, RunConfig):
        settings = dict(config)
        name = settings.pop("preset", "quick")
        config = parse_config(merge({"output": f"results/{name}", **load_preset(name)}, settings))
    (fitted,) = fit_epochs_to_budgets([config], lambda function, config: function(config), {})
    return run_one(fitted)


def load_encoder(run: str | Path) -> nn.Module:
    """The encoder of a finished run.

    Args:
        run: The run's folder, which holds `record.json` and `encoder.safetensors`.

    Returns:
        A plain timm `VisionTransformer` in eval mode, without a classifier.

    Raises:
        UsageError: `run` is not the folder of a finished run.
    """
    import timm

    from maskbench.models.encoder_sources import read_encoder_weights

    path = locate_record(Path(run))
    try:
        model = read_record(path).model
    except UnreadableRecord as error:
        raise UsageError(f"{run} is not the folder of a finished run: {error}") from None
    weights = read_encoder_weights(path.parent)
    encoder: nn.Module = timm.create_model(model["name"], **model["arguments"])
    encoder.load_state_dict(weights, strict=True)
    return encoder.eval()
