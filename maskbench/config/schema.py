"""A run's configuration: typed, complete, from preset, file and flags; a typo is an error with a suggestion.

Nothing here imports torch, so that a mistake is answered at once.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from maskbench.errors import UsageError, unknown


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Spec(Section):
    """A strategy, objective or probe by name, with the parameters that differ from its defaults."""

    name: str
    parameters: dict[str, Any] = {}


def parse_specs(text: str) -> list[dict[str, Any]]:
    """`random,gmml:fill=zeros:ratio=[0.5,0.75]` -> [{name, parameters}, ...]. Values are YAML."""
    specs = []
    for part in re.split(r",(?![^\[]*\])", text):
        name, *assignments = part.strip().split(":")
        parameters = {}
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals:
                raise UsageError(f"{part.strip()!r}: write parameters as {name}:key=value, not {assignment!r}")
            parameters[key.strip()] = yaml.safe_load(value)
        if not name:
            raise UsageError(f"{text!r} names nothing between two commas; write NAME[:key=value...],...")
        specs.append({"name": name, "parameters": parameters})
    return specs


def _one_spec(value: Any) -> Any:
    if isinstance(value, str):
        (value,) = parse_specs(value) if "," not in re.sub(r"\[.*?\]", "", value) else (value,)
    return value


def _specs(value: Any) -> Any:
    if isinstance(value, str):
        return parse_specs(value)
    return [_one_spec(one) for one in value] if isinstance(value, list) else value


def _size(value: Any) -> Any:
    """224, "224" or "160x224" (rows x cols) -> [rows, cols]."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
    return [int(match[1]), int(match[2] or match[1])] if match else value


OneSpec = Annotated[Spec, BeforeValidator(_one_spec)]
Specs = Annotated[list[Spec], BeforeValidator(_specs), Field(min_length=1)]
Side = Annotated[int, Field(ge=1, le=4096)]
Auto = Literal["auto"]


class Data(Section):
    dataset: str = "shapes"
    data_dir: str | None = None  # of torch/... data sets; not part of a run's identity
    img_size: Annotated[tuple[Side, Side], BeforeValidator(_size)] = (32, 32)  # rows, cols
    in_chans: Annotated[int, Field(ge=1, le=64)] = 3
    limit: Annotated[int, Field(ge=1)] | None = None
    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.2, 1.0)
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    mean: list[float] | None = None  # of pixels in [0, 1], a number a channel; those of train if not given
    std: list[Annotated[float, Field(gt=0)]] | None = None
    probe_dataset: str | None = None  # that the probes are about; the one above if not given
    memory_gib: Annotated[float, Field(ge=0)] = 4.0  # data that would take more are streamed; changes no number


class Model(Section):
    name: str = "vit_tiny_patch16_224"
    patch_size: Annotated[int, Field(ge=1)] = 16
    kwargs: dict[str, Any] = {}


Budget = Annotated[dict[Literal["seconds", "gflops"], Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=1)]


class Train(Section):
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 256  # global
    blr: Annotated[float, Field(gt=0)] | None = 1.5e-4  # per 256 images
    lr: Annotated[float, Field(gt=0)] | None = None  # absolute; takes the place of blr
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 5
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    weight_decay_end: Annotated[float, Field(ge=0)] | None = None  # where a half cosine takes it; None: it stays
    betas: tuple[float, float] = (0.9, 0.95)
    accumulate: Annotated[int, Field(ge=1)] = 1  # parts of a batch, one after the other; not part of a run's identity
    clip_grad: Annotated[float, Field(gt=0)] | None = None  # largest norm of the gradient
    teacher_momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    online_every: Annotated[int, Field(ge=1)] = 10  # epochs between k-NN readings on the validation part
    budget: Budget | None = None  # of all training, from which maskbench.sweeps.budget sets the epochs

    @model_validator(mode="before")
    @classmethod
    def _one_rate(cls, settings: Any) -> Any:
        """Of `lr` and `blr` one is given; the default of blr gives way."""
        if isinstance(settings, Mapping):
            given = [rate for rate in ("lr", "blr") if settings.get(rate) is not None]
            if len(given) == 2:
                raise ValueError("given as lr and as blr (per 256 images); drop one")
            if given == ["lr"]:
                return {**settings, "blr": None}
            if "blr" in settings and not given:
                raise ValueError("without lr or blr (per 256 images); give one")
        return settings


class System(Section):
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    attention: Literal["auto", "plain", "fused"] = "auto"
    compile: bool | Auto = "auto"
    workers: Annotated[int, Field(ge=0)] | Auto = "auto"  # processes that decode streamed data; changes no number
    deterministic: Literal[True] | None = None  # only algorithms that repeat to the last digit


class Tuning(Section):
    """Where some settings come from: a search with the same number of trials for every strategy."""

    row: str  # of the table: the strategy, and what else is crossed
    settings: dict[str, Any]  # of this run: dotted path -> value
    trials: Annotated[int, Field(ge=1)]  # combinations tried for this row
    seeds: list[int]  # of the trials
    trial: bool = False  # probed on validation, never on test


class RunConfig(Section):
    """One run. `maskbench run --print-config` shows it whole."""

    strategy: OneSpec = Spec(name="random")
    regime: Literal["paper", "matched"] = "paper"
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None  # matched regime; 0.75 if not given
    objective: OneSpec = Spec(name="mae")
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    probes: Specs = [Spec(name="knn"), Spec(name="linear")]
    seed: Annotated[int, Field(ge=0)] = 0
    system: System = System()
    tuning: Tuning | None = None
    output: str = "results/quick"

    @property
    def lr(self) -> float:
        """The peak learning rate: `lr`, or `blr` * batch / 256."""
        train = self.train
        if train.lr is not None:
            return train.lr
        assert train.blr is not None, "checked by Train"
        return train.blr * train.batch_size / 256

    def identity(self, strategy_version: int, objective_version: int = 1) -> str:
        """hash8: what makes two runs the same but for seed, machine and place. Settings that are None, and an
        objective's first version, stay out, so that what is new leaves the names of finished runs as they are."""
        content = self.model_dump(mode="json", exclude={"seed", "output"}, exclude_none=True)
        del content["system"]["device"], content["system"]["workers"]
        del content["data"]["memory_gib"], content["train"]["accumulate"]
        if self.objective.name == "external":  # known by its weights
            content["objective"]["parameters"] = {"digest": self.objective.parameters.get("digest")}
        content["data"].pop("data_dir", None)
        if self.tuning is not None:  # more combinations or seeds leave the trials that there are as they are
            content["tuning"] = {"row": self.tuning.row, "trial": self.tuning.trial}
        content["strategy_version"] = strategy_version
        if objective_version > 1:
            content["objective_version"] = objective_version
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def preset_names() -> list[str]:
    """Presets that ship, in alphabetical order."""
    folder = resources.files("maskbench.config.presets")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset; UsageError for an unknown one."""
    if name not in preset_names():
        raise unknown("preset", name, preset_names())
    text = resources.files("maskbench.config.presets").joinpath(f"{name}.yaml").read_text()
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings from a file; UsageError where it is missing or not a mapping."""
    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read config {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"config {path} must be a mapping such as --print-config shows")
    return settings


def merge(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `overrides` (dotted paths or nested mappings) laid over them; lists are replaced whole.

    What is chosen by name starts afresh with a new name: another model drops the old one's kwargs, another objective
    or strategy the old one's parameters. `lr` and `blr` replace each other, and `epochs` an earlier budget.
    """
    merged = dict(settings)
    for path, value in overrides.items():
        key, _, rest = path.partition(".")
        if rest:
            merged[key] = merge(merged.get(key) or {}, {rest: value})
        elif key in ("strategy", "objective"):
            merged[key] = _renamed(_one_spec(merged.get(key)), _one_spec(value))
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
        else:
            merged[key] = value
    if "kwargs" in settings and "kwargs" not in overrides and merged["name"] != settings.get("name"):
        del merged["kwargs"]
    return merged


def _renamed(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or old.get("name") != new.get("name"):
        return new
    return {**new, "parameters": {**old.get("parameters", {}), **new.get("parameters", {})}}


def parse(settings: Mapping[str, Any]) -> RunConfig:
    """The checked configuration. UsageError with one line: which setting, what is wrong, what would do."""
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        raise complaint(error) from None
    if config.ratio is not None and config.regime == "paper":
        raise UsageError("ratio is for --regime matched; the paper regime uses each strategy's own")
    patch, size = config.model.patch_size, config.data.img_size
    if size[0] % patch or size[1] % patch:
        near = [max(1, round(side / patch)) * patch for side in size]
        raise UsageError(
            f"image size {size[0]}x{size[1]} does not divide into patches of {patch}; "
            f"try --img-size {near[0]}x{near[1]} or another --patch-size"
        )
    return config


def assignments(texts: list[str]) -> dict[str, Any]:
    """["train.epochs=3", ...] -> {"train.epochs": 3, ...}; values are YAML."""
    settings = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {text!r}: write SECTION.SETTING=VALUE, e.g. --set train.epochs=3")
        try:
            settings[path] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {text!r}: {value!r} is not a YAML value; quote it") from None
    return settings


def parse_seeds(text: str) -> list[int]:
    """ "0,1,2" or "0-4" or a mixture -> seeds in order, each once."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UsageError(f"--seeds {text!r}: write 0,1,2 or 0-4")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(seeds))


def expand(settings: Mapping[str, Any], strategies: list[Any], seeds: list[int]) -> list[RunConfig]:
    """A configuration for each seed and strategy; the seed's random-init comes first: no number stands alone."""
    control = {"strategy": "none", "objective": "random-init"}
    configs = []
    for seed in seeds:
        for choice in (control, *({"strategy": strategy} for strategy in strategies)):
            configs.append(parse(merge(settings, {**choice, "seed": seed})))
    return list({config.model_dump_json(): config for config in configs}.values())


def complaint(error: ValidationError, root: type[Section] = RunConfig) -> UsageError:
    """The telling mistake among those that pydantic found in settings of the form of `root`, in one line."""
    found = error.errors()
    detail = next((one for one in found if one["type"] == "extra_forbidden"), found[0])  # a typo explains the rest
    where = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        section: Any = root
        for part in where[:-1]:
            if not part.isdigit():
                section = _section_of(section.model_fields[part].annotation) if part in section.model_fields else Spec
        return unknown("setting", ".".join(where), [".".join([*where[:-1], key]) for key in section.model_fields])
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if detail["type"] in ("model_type", "model_attributes_type"):
        message = "a mapping of settings"
    if detail["type"] == "missing":
        return UsageError(f"{'.'.join(where)} is missing")
    path = ".".join(part for part in where if part in _KEYS | root.model_fields.keys() or part.isdigit())
    return UsageError(f"{path}={detail['input']!r} should be {message}")


def _section_of(annotation: Any) -> Any:
    """The form of what a setting holds, one or a list of them; that of a Spec where it is none of ours."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = [_section_of(one) for one in get_args(annotation)]
    return next((one for one in inner if one is not Spec), Spec)


_KEYS = {key for section in (RunConfig, Data, Model, Train, System, Spec) for key in section.model_fields}
