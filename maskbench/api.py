"""maskbench from Python: any strategy in anybody's training loop, runs, and their encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.config.settings import RunConfig
from maskbench.config.words import settings_of_words
from maskbench.core.component import Component
from maskbench.errors import UsageError
from maskbench.record import RunRecord
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
        config: A RunConfig, or settings laid over those of their "preset" (default "quick"). They have the names of the
            command line, a dotted path, or are nested: `run({"strategy": "gmml", "epochs": 3, "train.betas": [0.9,
            0.95]})`. A strategy, objective or probe may be an instance: `create_strategy("gmml", fill="zeros")`.

    Returns:
        The record, as it stands in `<output>/runs/<run-id>/record.json`.

    Raises:
        UsageError: For what the user can put right, before anything is written.
        Failure: The run cannot be finished.
    """
    from maskbench.runs.run import run as run_one
    from maskbench.sweeps.budget import fit_epochs_to_budgets

    if not isinstance(config, RunConfig):
        config = _read_settings(config)
    (fitted,) = fit_epochs_to_budgets([config], lambda function, config: function(config), {})
    return run_one(fitted)


def _read_settings(words: Mapping[str, Any]) -> RunConfig:
    if not isinstance(words, Mapping):
        raise UsageError(f"run takes a RunConfig or a dict of settings, not {type(words).__name__}")
    words = dict(words)
    preset = words.pop("preset", "quick")
    for name in ("strategy", "objective", "probes"):
        if name in words:
            words[name] = _to_specs(words[name])
    return parse_config(merge({"output": f"results/{preset}", **load_preset(preset)}, settings_of_words(words)))


def _to_specs(value: Any) -> Any:
    """Name and parameters of strategies, objectives and probes, also in a list; anything else as it is."""
    if isinstance(value, list | tuple):
        return [_to_specs(each) for each in value]
    if isinstance(value, Component):
        if not value.name:
            raise UsageError(f"{type(value).__name__} has no name; put @register(...) above its class")
        usual = type(value)().parameters  # the matched regime may change what is left at its default
        changed = {name: given for name, given in value.parameters.items() if given != usual[name]}
        return {"name": value.name, "parameters": changed}
    if isinstance(value, type) and issubclass(value, Component):
        raise UsageError(f"{value.__name__} is a class; pass {value.__name__}() or its name")
    return value


def load_encoder(run: str | Path) -> nn.Module:
    """The encoder of a finished run.

    Args:
        run: The run's folder, which holds `record.json` and `encoder.safetensors`.

    Returns:
        A plain timm `VisionTransformer` in eval mode, without a classifier.

    Raises:
        UsageError: `run` is not the folder of a finished run.
    """
    from maskbench.models.encoder_sources import grid_from_arguments, read_finished_run
    from maskbench.models.pretrained import load_weights
    from maskbench.models.timm_models import create_timm_model

    record, weights = read_finished_run(Path(run))
    arguments = record.model["arguments"]
    encoder = create_timm_model(record.model["name"], arguments)
    load_weights(encoder, weights, grid_from_arguments(arguments))
    return encoder.eval()
