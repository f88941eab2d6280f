"""What is asked for: configurations, suites, typed words and numbers."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.inputs import HOSTILE_MODEL, SPECIAL_FILES, Input, a_run, write
from tests.fuzz.mutations import WRONG_VALUES, as_yaml, spoil_fields, spoil_yaml
from tests.fuzz.words import WORDS


def configurations(sound: Path) -> Iterator[Input]:
    """A file for --config."""
    whole = (a_run(sound) / "config.yaml").read_bytes()
    document = yaml.safe_load(whole)
    for name, content in [*spoil_yaml(whole), *spoil_fields(document, as_yaml)]:
        yield Input(name, partial(write, "mine.yaml", content), ("run", "--config", "mine.yaml", "--print-config"))
    command = ("run", "--config", "mine.yaml")
    for key, value in HOSTILE_MODEL.items():
        changed = yaml.safe_load(whole)
        changed["model"]["kwargs"] |= {key: value}
        yield Input(
            f"model {key}", partial(write, "mine.yaml", as_yaml(changed)), ("run", "--config", "mine.yaml"), (2,)
        )
    for model in ("hf-hub:timm/x", "local-dir:.", "../x", "vit_tiny_patch16_224.augreg_in21k", "resnet50", "x\x1b[31m"):
        changed = {**yaml.safe_load(whole), "model": {"name": model, "patch_size": 4}}
        yield Input(f"name {model!r}", partial(write, "mine.yaml", as_yaml(changed)), command)
    for name, special in SPECIAL_FILES.items():
        yield Input(name, partial(special, "mine.yaml"), (*command, "--print-config"), (2,))


SUITE: dict[str, Any] = {
    "preset": "quick",
    "set": {"data.limit": 100},
    "budget": {"epochs": 1},
    "strategies": ["random", "gmml:fill=zeros"],
    "ratios": [0.5],
    "seeds": "0-1",
    "controls": ["random-init"],
    "tune": {"lr": [1e-3]},
    "claims": [{"says": "a", "source": "b", "better": "gmml", "than": "random"}],
}


def suites(_: Path) -> Iterator[Input]:
    """A file for --suite."""
    for name, content in [*spoil_yaml(as_yaml(SUITE)), *spoil_fields(SUITE, as_yaml)]:
        command = ("run", "--suite", "./mine.yaml", "--print-config")
        yield Input(name, partial(write, "mine.yaml", content), command)


def words(_: Path) -> Iterator[Input]:
    """What is typed."""
    for line in WORDS:
        yield Input(" ".join(line)[:80], lambda folder: None, line, (2,))


def settings(_: Path) -> Iterator[Input]:
    """--set of each number to values outside of its range."""
    for path in ("train.lr", "train.weight_decay", "train.warmup_epochs", "train.min_lr", "train.epochs",
                 "train.clip_grad", "data.limit", "data.memory_gib", "data.flip", "data.crop_scale", "data.std",
                 "train.budget", "train.betas", "seed", "ratio"):  # fmt: skip
        for name in (*WRONG_VALUES, "inf", "nan"):
            value = {"inf": ".inf", "nan": ".nan"}.get(name) or json.dumps(WRONG_VALUES[name])
            yield Input(
                f"{path}={name}", lambda folder: None, ("run", "--set", f"{path}={value}", "--print-config"), (0, 2)
            )
