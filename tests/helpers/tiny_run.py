"""Runs small enough for tests."""

from pathlib import Path
from typing import Any

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.config.settings import RunConfig

TINY_SETTINGS: dict[str, Any] = {
    "data.img_size": 16,
    "data.limit": 300,
    "model.kwargs": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "objective.parameters.decoder_width": 16,
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.online_every": 1,
    "system.precision": "fp32",
    "system.device": "cpu",
}


def tiny_config(folder: Path, strategy: str = "random", /, **changes: Any) -> RunConfig:
    """A configuration that trains 8 steps on 300 shapes of 16 px; `changes` with __ for dots."""
    settings = merge(load_preset("quick"), {**TINY_SETTINGS, "strategy": strategy, "output": str(folder)})
    return parse_config(merge(settings, {name.replace("__", "."): value for name, value in changes.items()}))
