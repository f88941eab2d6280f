"""`maskbench.run({...})` takes the words of the command line, or says which word is meant."""

from pathlib import Path
from typing import Any

import pytest

import maskbench
from maskbench.api import _read_settings
from maskbench.cli.options_from_settings import settings_with_options
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.config.words import settings_of_words
from maskbench.core.component import Component
from maskbench.errors import UsageError
from maskbench.objectives.mae import Mae
from maskbench.probes.knn import Knn
from maskbench.runs.plan import make_plan
from maskbench.strategy import REGISTRY


def test_every_option_of_a_setting_is_a_word_for_it() -> None:
    for setting in settings_with_options():
        for word in (setting.name, setting.name.replace("_", "-"), f"--{setting.name}", setting.path):
            assert settings_of_words({word: "x"})[setting.path] == "x"


def test_words_make_the_configuration_of_the_command_line(tmp_path: Path) -> None:
    words = {
        "dataset": tmp_path / "images", "lr": 1e-3, "epochs": 3, "batch-size": 8, "img_size": 64, "model": "vit_x",
        "strategy": "gmml:fill=zeros", "probes": "knn", "seed": 2, "output": tmp_path, "ratio": 0.5,
    }  # fmt: skip
    settings = {
        "data.dataset": str(tmp_path / "images"), "train.lr": 1e-3, "train.epochs": 3, "train.batch_size": 8,
        "data.img_size": 64, "model.name": "vit_x", "strategy": "gmml:fill=zeros", "probes": "knn", "seed": 2,
        "output": str(tmp_path), "ratio": 0.5, "regime": "matched",
    }  # fmt: skip
    config = _read_settings(words)
    assert config == parse_config(merge(load_preset("quick"), settings))
    assert config.train.blr is None, "as with --lr"


def test_sections_and_dotted_paths_stay_what_they_were() -> None:
    config = _read_settings({"train": {"epochs": 2}, "train.batch_size": 4, "model": {"patch_size": 8}})
    assert (config.train.epochs, config.train.batch_size, config.model.patch_size) == (2, 4, 8)


@pytest.mark.parametrize("strategy", ["random", "random:ratio=0.5", "gmml:fill=zeros"])
def test_a_created_strategy_is_the_named_one(strategy: str) -> None:
    named = _read_settings({"strategy": strategy, "ratio": 0.6})
    parameters = named.strategy.parameters
    created = _read_settings({"strategy": maskbench.create_strategy(named.strategy.name, **parameters), "ratio": 0.6})
    assert make_plan(created).run_id == make_plan(named).run_id


def test_objectives_and_probes_may_be_instances() -> None:
    config = _read_settings({"objective": Mae(error="l1"), "probes": [Knn(), "linear"]})
    assert config.objective.parameters["error"] == "l1"
    assert [probe.name for probe in config.probes] == ["knn", "linear"]


class Unregistered(Component):
    """A component that nothing knows."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"epoch": 3}, r"unknown setting 'epoch'. Did you mean epochs"),
        ({"data_set": "x"}, r"unknown setting 'data_set'. Did you mean dataset"),
        ({"betas": [0.9, 0.95]}, r"unknown setting 'betas'; write 'train.betas'"),
        ({"kwargs": {}}, r"unknown setting 'kwargs'; write 'model.kwargs'"),
        ({"train.epoch": 3}, r"unknown setting 'train.epoch'. Did you mean train.epochs"),
        ({"seeds": "0-4"}, r"'seeds' is no setting of a run: .*give seed"),
        ({"suite": "x"}, r"'suite' is no setting of a run: maskbench.run makes one run"),
        ({"plugin": "x.py"}, r"'plugin' is no setting of a run: import the module"),
        ({"jobs": 2}, r"'jobs' is no setting of a run"),
        ({"lr": 1e-3, "train.lr": 1e-4}, r"'lr' and 'train.lr' are the same setting, train.lr; give one"),
        ({"lr": 1e-3, "train": {"lr": 1e-4}}, r"'lr' and 'train' are the same setting, train.lr; give one"),
        ({"batch-size": 8, "batch_size": 4}, r"'batch-size' and 'batch_size' are the same setting"),
        ({3: "x"}, r"settings are named by text, such as 'epochs', not by 3"),
        ({"strategy": REGISTRY.get("random")}, r"is a class; pass .*\(\) or its name"),
        ({"strategy": Unregistered()}, r"Unregistered has no name; put @register"),
        ({"strategy": "random,gmml"}, r"names several; give one"),
        ({"lr": -1}, r"train.lr=-1 should be greater than 0"),
        (["strategy", "random"], r"run takes a RunConfig or a dict of settings, not list"),
        ("random", r"run takes a RunConfig or a dict of settings, not str"),
    ],
)
def test_a_word_that_is_none_is_answered_by_the_one_that_is_meant(words: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        maskbench.run(words)
    assert "\n" not in str(refused.value)
