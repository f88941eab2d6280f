"""A grid of runs as a YAML file: what is crossed with what, for which seeds."""

import itertools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from maskbench.config import (
    Model,
    OneSpec,
    RunConfig,
    Section,
    Specs,
    complaint,
    merge,
    parse,
    parse_seeds,
    preset,
    read_yaml,
)
from maskbench.errors import unknown

CONTROLS = ("random-init", "supervised")


def _seeds(value: Any) -> Any:
    return parse_seeds(str(value)) if isinstance(value, str | int) else value


class Suite(Section):
    """Every strategy with every objective, ratio, data set, model and seed, and the controls once for each of those
    data sets, models and seeds. Settings lie over the preset's, in this order: `set`, then what is crossed."""

    preset: str = "quick"
    set: dict[str, Any] = Field({})  # any setting by its dotted path
    strategies: Specs
    objectives: Annotated[list[OneSpec], Field(min_length=1)] | None = None  # the preset's if not given
    ratios: list[Annotated[float, Field(gt=0, lt=1)]] | None = None  # matched regime
    datasets: list[str] | None = None
    models: list[Model] | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_seeds), Field(min_length=1)] = Field([0])
    controls: list[str] = Field(list(CONTROLS))


def suite_names() -> list[str]:
    """Suites that ship, in alphabetical order."""
    folder = resources.files("maskbench.suites")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_suite(name_or_path: str) -> tuple[str, Suite]:
    """A suite that ships, or one from a file (anything with a slash or ending in .yaml), and its name. UsageError with
    one line for an unknown name or a mistake in the file."""
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        name, settings = Path(name_or_path).stem, read_yaml(Path(name_or_path))
    elif name_or_path in suite_names():
        text = resources.files("maskbench.suites").joinpath(f"{name_or_path}.yaml").read_text()
        name, settings = name_or_path, yaml.safe_load(text)
    else:
        raise unknown("suite", name_or_path, suite_names())
    try:
        return name, Suite.model_validate(settings)
    except ValidationError as error:
        raise complaint(error, Suite) from None


def grid(name: str, suite: Suite, overrides: Mapping[str, Any]) -> list[RunConfig]:
    """A configuration for each run, seeds outermost, so that comparisons are complete early, controls first.

    overrides: dotted settings from the command line, over everything else.
    """
    base = merge({**preset(suite.preset), "output": f"results/{name}"}, suite.set)
    configs = []
    places: list[list[dict[str, Any]]] = [
        [{"data.dataset": dataset} for dataset in suite.datasets or ()] or [{}],
        [{"model": model.model_dump()} for model in suite.models or ()] or [{}],
    ]
    crossed: list[list[dict[str, Any]]] = [
        [{"objective": spec.model_dump()} for spec in suite.objectives or ()] or [{}],
        [{"regime": "matched", "ratio": ratio} for ratio in suite.ratios or ()] or [{}],
        [{"strategy": spec.model_dump()} for spec in suite.strategies],
    ]
    for seed, *place in itertools.product(suite.seeds, *places):
        settings = base
        for choice in ({"seed": seed}, *place, overrides):
            settings = merge(settings, choice)
        for control in suite.controls:
            configs.append(parse(merge(settings, {"strategy": "none", "objective": control})))
        for choices in itertools.product(*crossed):
            run = settings
            for choice in choices:
                run = merge(run, choice)
            configs.append(parse(run))
    return list({config.model_dump_json(): config for config in configs}.values())
