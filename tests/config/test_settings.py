"""Configuration: what overrides what, and what is refused how."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from maskbench.config.resolve import (
    expand_runs,
    load_preset,
    merge,
    parse_assignments,
    parse_config,
    parse_seeds,
    preset_names,
    read_yaml,
)
from maskbench.config.settings import RunConfig
from maskbench.config.specs import parse_specs
from maskbench.errors import UsageError


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_complete_and_valid(name: str) -> None:
    settings = load_preset(name)
    config = parse_config(settings)
    written = config.model_dump(mode="json")
    for section in ("data", "model", "train"):
        given = set(settings[section])
        given |= {"memory_gib", "accumulate"}  # a machine's, not a recipe's
        missing = {key for key, value in written[section].items() if value is not None and key not in given}
        assert not missing, f"{section} of {name} leaves {missing} to defaults"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("random", [("random", {})]),
        ("random,gmml:fill=zeros", [("random", {}), ("gmml", {"fill": "zeros"})]),
        ("gmml:ratio=[0.5,0.75]:exact=true,none", [("gmml", {"ratio": [0.5, 0.75], "exact": True}), ("none", {})]),
        ("a:x=1e-3 , b", [("a", {"x": "1e-3"}), ("b", {})]),
    ],
)
def test_specs(text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    assert [(spec["name"], spec["parameters"]) for spec in parse_specs(text)] == expected


@pytest.mark.parametrize("text", ["random,,gmml", "gmml:fill", ",random"])
def test_bad_specs(text: str) -> None:
    with pytest.raises(UsageError):
        parse_specs(text)


@pytest.mark.parametrize(("text", "seeds"), [("0", [0]), ("0-3", [0, 1, 2, 3]), ("7,1-2,1", [7, 1, 2])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,,2", "1.5"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(UsageError, match="write 0,1,2 or 0-4"):
        parse_seeds(text)


@pytest.mark.parametrize(("value", "size"), [(224, (224, 224)), ("160x224", (160, 224)), ([32, 48], (32, 48))])
def test_image_sizes_are_rows_by_columns(value: Any, size: tuple[int, int]) -> None:
    assert parse_config(merge(load_preset("quick"), {"data.img_size": value})).data.img_size == size


def test_naming_a_model_resets_its_arguments() -> None:
    settings = load_preset("quick")
    assert "kwargs" not in merge(settings, {"model.name": "vit_small_patch16_224"})["model"]
    assert "kwargs" not in merge(settings, {"model.name": settings["model"]["name"]})["model"], "what is named is run"
    assert merge(settings, {"model.patch_size": 8})["model"]["kwargs"] == settings["model"]["kwargs"]
    both = merge(settings, {"model": {"name": "vit_small_patch16_224", "kwargs": {"depth": 3}}})
    assert both["model"]["kwargs"] == {"depth": 3}


def test_naming_another_objective_drops_the_old_ones_parameters() -> None:
    settings = load_preset("quick")
    assert merge(settings, {"objective": "supervised"})["objective"] == {"name": "supervised", "parameters": {}}
    same = merge(settings, {"objective": "mae:decoder_depth=3"})["objective"]["parameters"]
    assert same["decoder_depth"] == 3
    assert same["decoder_width"] == settings["objective"]["parameters"]["decoder_width"]


def test_lr_and_blr_replace_each_other() -> None:
    settings = load_preset("quick")
    assert parse_config(merge(settings, {"train.blr": 1e-3})).train.lr is None
    assert parse_config(merge(settings, {"train.lr": 5e-4})).lr == 5e-4
    with pytest.raises(UsageError, match="lr and as blr"):
        parse_config({"train": {"lr": 1, "blr": 1}})
    with pytest.raises(UsageError, match="without lr or blr"):
        parse_config({"train": {"blr": None}})
    assert RunConfig().lr == pytest.approx(1.5e-4)


def test_the_paper_regime_drops_the_presets_ratio() -> None:
    matched = merge(load_preset("quick"), {"regime": "matched", "ratio": 0.5})
    assert parse_config(merge(matched, {"regime": "paper"})).ratio is None
    with pytest.raises(UsageError, match="ratio is for --regime matched"):
        parse_config(merge(matched, {"regime": "paper", "ratio": 0.5}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "mae,gmml"}, "'mae,gmml' names several; give one NAME"),
        (
            {"objective": "mae:decoder_depth=2,normalise=none"},
            "separate parameters by colons, as in NAME:key=value:norm",
        ),
        ({"train.epoch": 3}, "unknown setting 'train.epoch'. Did you mean train.epochs"),
        ({"trian": {}}, "unknown setting 'trian'. Did you mean train"),
        ({"train.epochs": 0}, "train.epochs=0 should be greater than or equal to 1"),
        ({"train.epochs": "many"}, "train.epochs='many' should be a valid integer"),
        ({"regime": "fair"}, "regime='fair' should be 'paper' or 'matched'"),
        ({"ratio": 0.5}, "ratio is for --regime matched"),
        ({"regime": "matched", "ratio": 1.5}, "ratio=1.5 should be less than 1"),
        ({"data.img_size": 30}, "30x30 does not divide into patches of 4; try --img-size 32x32"),
        ({"data.img_size": "big"}, "data.img_size='big' should be two numbers"),
        ({"data": 3}, "data=3 should be a mapping"),
        ({"probes": []}, "probes=.* should have at least 1 item"),
        ({"seed": -1}, "seed=-1 should be greater"),
        ({"system.precision": "fp16"}, "system.precision='fp16' should be 'auto', 'fp32' or 'bf16'"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_config(merge(load_preset("quick"), settings))
    assert "\n" not in str(caught.value)


def test_set_takes_yaml() -> None:
    assert parse_assignments(["train.epochs=3", "data.crop_scale=[0.5, 1]"]) == {
        "train.epochs": 3,
        "data.crop_scale": [0.5, 1],
    }
    for text in ("train.epochs", "=3", "a=[1"):
        with pytest.raises(UsageError, match="--set"):
            parse_assignments([text])


def test_config_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(RunConfig().model_dump(mode="json")))
    assert parse_config(read_yaml(path)) == RunConfig()
    for content, message in (("[1, 2]", "must be a mapping"), ("a: [", "is not YAML")):
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_yaml(path)
    with pytest.raises(UsageError, match="cannot read config"):
        read_yaml(tmp_path / "none.yaml")


def test_every_seed_gets_its_random_init_once() -> None:
    configs = expand_runs(load_preset("quick"), ["random", {"name": "gmml", "parameters": {}}], [0, 1])
    names = [(config.objective.name, config.strategy.name, config.seed) for config in configs]
    assert names == [
        ("random-init", "none", 0), ("mae", "random", 0), ("mae", "gmml", 0),
        ("random-init", "none", 1), ("mae", "random", 1), ("mae", "gmml", 1),
    ]  # fmt: skip
    control = expand_runs(merge(load_preset("quick"), {"objective": "random-init"}), ["none"], [0])
    assert len(control) == 1


def test_nothing_here_needs_torch() -> None:
    import subprocess
    import sys

    code = "import sys, maskbench, maskbench.config.settings, maskbench.analysis.results; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


SIX_DEEP = {"depth": 6}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"model.name": "vit_small_patch16_224"}, {}),
        ({"model.name": "vit_small_patch16_224", "model.kwargs": SIX_DEEP}, SIX_DEEP),
        ({"model.kwargs": SIX_DEEP, "model.name": "vit_small_patch16_224"}, SIX_DEEP),
        ({"model.kwargs.depth": 6, "model.name": "vit_small_patch16_224"}, SIX_DEEP),
        ({"model.name": "vit_small_patch16_224", "model.kwargs.depth": 6}, SIX_DEEP),
        ({"model.kwargs": SIX_DEEP, "model": {"name": "vit_small_patch16_224"}}, SIX_DEEP),
        ({"model": {"name": "vit_small_patch16_224"}, "model.kwargs": SIX_DEEP}, SIX_DEEP),
        ({"model": {"name": "vit_small_patch16_224"}}, {}),
        ({"model": {"kwargs": SIX_DEEP}}, SIX_DEEP),
        ({"model.kwargs.depth": 6}, {"embed_dim": 96, "depth": 6, "num_heads": 3}),
    ],
)
def test_the_order_of_a_models_settings_does_not_matter(overrides: dict[str, Any], expected: dict[str, Any]) -> None:
    """The preset's arguments go with its model; what is given beside the name stays."""
    merged = parse_config(merge(load_preset("quick"), overrides))
    assert merged.model.kwargs == expected
    assert merged.model.patch_size == 4, "the preset's"


@pytest.mark.parametrize("dotted_first", [True, False])
@pytest.mark.parametrize("component", ["strategy", "objective"])
def test_parameters_belong_to_the_component_that_is_named_beside_them(component: str, dotted_first: bool) -> None:
    name, parameter = {"strategy": ("block", "smallest"), "objective": ("simmim", "error")}[component]
    overrides = {f"{component}.parameters.{parameter}": 4, component: name}
    if not dotted_first:
        overrides = dict(reversed(overrides.items()))
    found = getattr(parse_config(merge(load_preset("quick"), overrides)), component)
    assert (found.name, found.parameters) == (name, {parameter: 4})
