"""From presets, files and flags to a checked configuration; a typo is an error with a suggestion."""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from maskbench.config.model_arguments import check_model_kwargs
from maskbench.config.plain_files import MAX_SETTINGS, NotPlain, ensure_text_line, parse_yaml, read_regular_file
from maskbench.config.section import Section
from maskbench.config.settings import EXTERNAL, MAX_SEED, Data, Model, RunConfig, System, Train
from maskbench.config.specs import Spec, parse_one_spec, parse_value
from maskbench.errors import UsageError, quoted, unknown_name, unquoted

MAX_TOKENS = 65_536  # of an image, as 4096 px in patches of 16: attention over more takes too much of any memory
MAX_SEEDS = 1_000  # in one command
MAX_PARTS = 8  # of a setting's dotted name
_SECTIONS = ("data", "model", "train", "system")


def preset_names() -> list[str]:
    """Presets that ship, in alphabetical order."""
    folder = resources.files("maskbench.config.presets")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The settings of a preset, over those of the `preset` that it names. UsageError for an unknown name."""
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names())
    text = resources.files("maskbench.config.presets").joinpath(f"{name}.yaml").read_text()
    settings: dict[str, Any] = yaml.safe_load(text)
    return merge(load_preset(settings.pop("preset")), settings) if "preset" in settings else settings


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings from a file: a configuration, a suite or claims.

    UsageError where it is missing or not a mapping, and for whatever `maskbench.config.plain_files` refuses: another
    kind of file, one of more than 128 KiB, values without limits, a name twice.
    """
    try:
        settings = parse_yaml(read_regular_file(path, MAX_SETTINGS))
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}") from None
    except NotPlain as reason:
        raise UsageError(f"cannot read config {path}: {reason}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"config {path} must be a mapping such as --print-config shows")
    return settings


def merge(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `overrides` (dotted paths or nested mappings) laid over them; lists are replaced whole.

    What is chosen by name starts afresh: naming a model drops the kwargs that it had, also where the name is the same;
    another objective or strategy drops the old one's parameters. What is given beside the name stays, in any order.
    `lr` and `blr` replace each other, `epochs` an earlier budget, and the paper regime drops an earlier ratio.
    """
    merged = dict(settings)
    for path in overrides:
        if not isinstance(path, str):
            raise UsageError(f"settings are named by text, such as epochs, not by {quoted(path)}")
    if "name" in overrides:
        merged.pop("kwargs", None)
    for path, value in sorted(overrides.items(), key=lambda override: not _chooses_by_name(*override)):
        key, _, rest = path.partition(".")
        if rest:
            merged[key] = merge(_section(merged, key, path), {rest: value})
        elif key in _SECTIONS and not isinstance(value, Mapping | Section):
            raise UsageError(f"{key}={quoted(value)} should be a mapping of settings; name one, as in {key}.NAME=VALUE")
        elif key in ("strategy", "objective"):
            merged[key] = _replace_component(parse_one_spec(merged.get(key)), parse_one_spec(value))
        elif (
            isinstance(value, Mapping)
            and isinstance(merged.get(key), Mapping)
            and key not in ("kwargs", "parameters", "budget")
        ):
            merged[key] = merge(merged[key], value)
        elif key in ("lr", "blr") and value is not None:
            merged |= {"lr": None, "blr": None, key: value}
        elif key == "epochs" and value is not None:
            merged |= {"budget": None, key: value}
        elif key == "regime" and value == "paper" and "ratio" not in overrides:
            merged |= {"ratio": None, key: value}
        else:
            merged[key] = value
    return merged


def _section(settings: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    """What lies at `key`, in which `path` goes on. UsageError where that is a value."""
    section = settings.get(key)
    if key in ("strategy", "objective"):
        section = parse_one_spec(section)
    if section is not None and not isinstance(section, Mapping):
        raise UsageError(f"{quoted(path)}: {unquoted(key)} is the value {quoted(section)}, with nothing below it")
    return section or {}


def _chooses_by_name(path: str, value: Any) -> bool:
    """Whether an override starts a component afresh; it then comes before those of its parameters."""
    return (
        path in ("strategy", "objective")
        or path.rpartition(".")[2] == "name"
        or (isinstance(value, Mapping) and "name" in value)
    )


def _replace_component(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or old.get("name") != new.get("name"):
        return new
    before, given = old.get("parameters", {}), new.get("parameters", {})
    if not isinstance(before, Mapping) or not isinstance(given, Mapping):
        return new
    return {**new, "parameters": {**before, **given}}


def parse_config(settings: Mapping[str, Any]) -> RunConfig:
    """The checked configuration. UsageError with one line: which setting, what is wrong, what would do."""
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        raise explain_error(error) from None
    if config.ratio is not None and config.regime == "paper":
        raise UsageError("ratio is for --regime matched; the paper regime uses each strategy's own")
    _check_names(config)
    check_model_kwargs(config.model.kwargs)
    patch, size = config.model.patch_size, config.data.img_size
    if size[0] % patch or size[1] % patch:
        near = [max(1, round(side / patch)) * patch for side in size]
        raise UsageError(
            f"image size {size[0]}x{size[1]} does not divide into patches of {patch}; "
            f"try --img-size {near[0]}x{near[1]} or another --patch-size"
        )
    tokens = (size[0] // patch) * (size[1] // patch)
    if tokens > MAX_TOKENS:
        raise UsageError(
            f"images of {size[0]}x{size[1]} in patches of {patch} are {tokens:,} tokens each, and at most "
            f"{MAX_TOKENS:,} are supported; choose a smaller --img-size or a larger --patch-size"
        )
    return config


def _check_names(config: RunConfig) -> None:
    """UsageError for a name or path that a record could not have: it stands in messages, tables and file names."""
    data = config.data
    names = {
        "data.dataset": data.dataset,
        "data.data_dir": data.data_dir,
        "data.probe_dataset": data.probe_dataset,
        "data.label_column": data.label_column,
        "output": config.output,
        "tuning.row": None if config.tuning is None else config.tuning.row,
    }
    for setting, name in names.items():
        if name is not None:
            try:
                ensure_text_line(name, setting)
            except NotPlain as reason:
                raise UsageError(f"{reason}") from None


def parse_assignments(texts: list[str]) -> dict[str, Any]:
    """["train.epochs=3", ...] -> {"train.epochs": 3, ...}; values are YAML."""
    settings = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not all(path.split(".")) or path.count(".") > MAX_PARTS:
            raise UsageError(f"--set {quoted(text)}: write SECTION.SETTING=VALUE, e.g. --set train.epochs=3")
        try:
            settings[path] = parse_value(value)
        except UsageError as error:
            raise UsageError(f"--set {unquoted(path)}: {error}") from None
    return settings


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" or "0-4" or a mixture -> seeds in order, each once. UsageError for more than MAX_SEEDS."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UsageError(f"--seeds {quoted(text)}: write 0,1,2 or 0-4")
        first, last = (min(int(number[:20]), MAX_SEED + 1) for number in (match[1], match[2] or match[1]))
        if last > MAX_SEED:
            raise UsageError(f"--seeds {quoted(text)}: the largest seed is {MAX_SEED}")
        if last - first >= MAX_SEEDS - len(seeds):
            raise UsageError(f"--seeds {quoted(text)} are more than {MAX_SEEDS:,} seeds, each of them a run")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def expand_runs(settings: Mapping[str, Any], strategies: list[Any], seeds: list[Any]) -> list[RunConfig]:
    """A configuration for each seed and strategy; the seed's controls come first: no number stands alone."""
    configs = []
    for seed in seeds:
        own = merge(settings, {"seed": seed})
        configs += untrained_controls(own)
        configs += [parse_config(merge(own, {"strategy": strategy})) for strategy in strategies]
    return list({config.model_dump_json(): config for config in configs}.values())


def untrained_controls(settings: Mapping[str, Any]) -> list[RunConfig]:
    """random-init; and, where training starts from weights, the encoder as it came."""
    init = (settings.get("model") or {}).get("init")
    fresh = merge(settings, {"strategy": "none", "model.init": None})
    controls: list[Any] = ["random-init"]
    if init is not None:
        controls.append({"name": EXTERNAL, "parameters": dict(init)})
    return [parse_config(merge(fresh, {"objective": control})) for control in controls]


def explain_error(error: ValidationError, root: type[Section] = RunConfig) -> UsageError:
    """The telling mistake among those that pydantic found in settings of the form of `root`, in one line."""
    found = error.errors()
    detail = next((one for one in found if one["type"] == "extra_forbidden"), found[0])  # a typo explains the rest
    where = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        section: Any = root
        for part in where[:-1]:
            if not part.isdigit():
                section = _section_of(section.model_fields[part].annotation) if part in section.model_fields else Spec
        return unknown_name("setting", ".".join(where), [".".join([*where[:-1], key]) for key in section.model_fields])
    own = detail.get("ctx", {}).get("error")
    if isinstance(own, UsageError):  # which says all, such as that of a strategy's text
        return own
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message.replace("a valid tuple", "two numbers")
    if detail["type"] in ("model_type", "model_attributes_type"):
        message = "a mapping of settings"
    if detail["type"] == "missing":
        return UsageError(f"{'.'.join(where)} is missing")
    path = ".".join(part for part in where if part in _KEYS | root.model_fields.keys() or part.isdigit())
    return UsageError(f"{path}={quoted(detail['input'])} should be {message}")


def _section_of(annotation: Any) -> Any:
    """The form of what a setting holds, one or a list of them; that of a Spec where it is none of ours."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = [_section_of(one) for one in get_args(annotation)]
    return next((one for one in inner if one is not Spec), Spec)


_KEYS = {key for section in (RunConfig, Data, Model, Train, System, Spec) for key in section.model_fields}
