"""A grid of runs as a YAML file: what is crossed with what, for which seeds."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from maskbench.config.schema import (
    Model,
    OneSpec,
    RunConfig,
    Section,
    Spec,
    Specs,
    Train,
    complaint,
    merge,
    parse,
    parse_seeds,
    preset,
    read_yaml,
)
from maskbench.errors import UsageError, unknown

CONTROLS = ("random-init", "supervised")
FIXED = ("epochs", "batch_size", "budget")  # of training: the same for all that are compared
Choice = dict[str, Any]  # dotted path -> value


def _seeds(value: Any) -> Any:
    return parse_seeds(str(value)) if isinstance(value, str | int) else value


Seeds = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_seeds), Field(min_length=1)]


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as text."""
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value


Value = Annotated[Any, BeforeValidator(_number)]


class Suite(Section):
    """Every strategy with every objective, ratio, data set, model and seed, and the controls once for each of those
    data sets, models and seeds. Settings lie over the preset's, in this order: `set`, `budget`, then what is crossed.

    tune: setting -> values, e.g. {lr: [1e-3, 2e-3], ratio: [0.6, 0.75]}. Each strategy is tried with every combination
    and every one of `tuning_seeds`, and its best one on validation is what the seeds then run. Controls are not tuned.
    """

    preset: str = "quick"
    set: Choice = Field({})  # any setting by its dotted path
    budget: (
        Annotated[
            dict[Literal["epochs", "seconds", "gflops"], Annotated[float, Field(gt=0)]],
            Field(min_length=1, max_length=1),
        ]
        | None
    ) = None  # of each run's training; the preset's epochs if not given
    strategies: Specs
    objectives: Annotated[list[OneSpec], Field(min_length=1)] | None = None  # the preset's if not given
    ratios: list[Annotated[float, Field(gt=0, lt=1)]] | None = None  # matched regime
    datasets: list[str] | None = None
    models: list[Model] | None = None
    seeds: Seeds = Field([0])
    tune: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field({})
    tuning_seeds: Seeds = Field([1000])
    controls: list[str] = Field(list(CONTROLS))

    @property
    def combinations(self) -> list[Choice]:
        """Those that are tried for each strategy: dotted path -> value; none where nothing is tuned."""
        paths = [f"train.{name}" if name in Train.model_fields else name for name in self.tune]
        values = itertools.product(*self.tune.values()) if self.tune else ()
        return [dict(zip(paths, these, strict=True)) for these in values]


def suite_names() -> list[str]:
    """Suites that ship, in alphabetical order."""
    folder = resources.files("maskbench.config.suites")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_suite(name_or_path: str) -> tuple[str, Suite]:
    """A suite that ships, or one from a file (anything with a slash or ending in .yaml), and its name. UsageError with
    one line for an unknown name or a mistake in the file."""
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        name, settings = Path(name_or_path).stem, read_yaml(Path(name_or_path))
    elif name_or_path in suite_names():
        text = resources.files("maskbench.config.suites").joinpath(f"{name_or_path}.yaml").read_text()
        name, settings = name_or_path, yaml.safe_load(text)
    else:
        raise unknown("suite", name_or_path, suite_names())
    try:
        suite = Suite.model_validate(settings)
    except ValidationError as error:
        raise complaint(error, Suite) from None
    _check_tuning(suite)
    return name, suite


def _check_tuning(suite: Suite) -> None:
    fixed = sorted(_bare(suite) & set(FIXED))
    if fixed:
        raise UsageError(f"tune: {fixed[0]} is what makes runs comparable; set it for all, under set or budget")
    if suite.budget is not None and "epochs" not in suite.budget and "warmup_epochs" in _bare(suite):
        raise UsageError("tune: under a budget the warm-up keeps its share of the epochs; drop warmup_epochs")
    if "ratio" in suite.tune and suite.ratios:
        raise UsageError("a suite either tunes the ratio or crosses ratios; drop one of the two")


def _bare(suite: Suite) -> set[str]:
    return {name.removeprefix("train.") for name in suite.tune}


def grid(name: str, suite: Suite, overrides: Choice, chosen: Callable[[str], Choice] | None = None) -> list[RunConfig]:
    """A configuration for each run, seeds outermost, so that comparisons are complete early, controls first.

    overrides: dotted settings from the command line, over everything else. chosen: of a row that was tuned, the
    combination that was best; the first one if not given.
    """
    tried = suite.combinations
    configs = []
    for place, settings in _places(name, suite, suite.seeds, overrides):
        for control in suite.controls:
            configs.append(parse(merge(settings, {"strategy": "none", "objective": control})))
        for choices, spec in _rows(suite):
            run = _laid_over(settings, *choices)
            if tried:
                row = _row_name(spec, *place, *choices)
                run = _tuned(run, suite, row, tried[0] if chosen is None else chosen(row))
            configs.append(parse(run))
    return _each_once(configs)


def trials(name: str, suite: Suite, overrides: Choice) -> list[RunConfig]:
    """The runs by which each row's settings are chosen, in a folder of their own; none where nothing is tuned.
    UsageError where a seed serves both choice and comparison."""
    shared = set(suite.seeds) & set(suite.tuning_seeds)
    if suite.tune and shared:
        raise UsageError(f"seed {min(shared)} is among the seeds and the tuning_seeds; choose others for one of them")
    configs = []
    for place, settings in _places(name, suite, suite.tuning_seeds, overrides):
        settings = {**settings, "output": str(Path(settings["output"]) / "trials")}
        for choices, spec in _rows(suite):
            row = _row_name(spec, *place, *choices)
            for combination in suite.combinations:
                run = _tuned(_laid_over(settings, *choices), suite, row, combination, trial=True)
                configs.append(parse(run))
    return _each_once(configs)


def _places(
    name: str, suite: Suite, seeds: list[int], overrides: Choice
) -> Iterator[tuple[tuple[Choice, ...], dict[str, Any]]]:
    """Each seed on each data set with each model: the choice of the latter two, and the settings of all runs there."""
    _check_overrides(suite, overrides)
    base = _budgeted(merge({**preset(suite.preset), "output": f"results/{name}"}, suite.set), suite)
    datasets: list[Choice] = [{"data.dataset": dataset} for dataset in suite.datasets or ()] or [{}]
    models: list[Choice] = [{"model": model.model_dump()} for model in suite.models or ()] or [{}]
    for seed, *place in itertools.product([{"seed": seed} for seed in seeds], datasets, models):
        yield tuple(place), _laid_over(base, seed, *place, overrides)


def _check_overrides(suite: Suite, overrides: Choice) -> None:
    """UsageError for a flag over which the suite would lay a list of its own."""
    crossed = {"objectives": "objective", "ratios": "ratio", "datasets": "data.dataset", "models": "model"}
    lists = {path: name for name, path in crossed.items() if getattr(suite, name) is not None}
    lists |= {path: "tune" for combination in suite.combinations for path in combination}
    for path in overrides:
        own = next((own for own in lists if f"{path}.".startswith(f"{own}.")), None)
        if own is not None:
            raise UsageError(f"the suite lists values for {own}, under {lists[own]}; change them there, not by a flag")


def _budgeted(settings: dict[str, Any], suite: Suite) -> dict[str, Any]:
    """With the suite's budget; of epochs, which are known at once, the warm-up keeps its share."""
    if suite.budget is None:
        return settings
    ((unit, amount),) = suite.budget.items()
    if unit != "epochs":
        return merge(settings, {"train.budget": suite.budget})
    train, epochs = settings["train"], round(amount)
    warmup = round(train.get("warmup_epochs", 0) * epochs / train["epochs"], 6)
    return merge(settings, {"train.epochs": epochs, "train.warmup_epochs": warmup})


def _rows(suite: Suite) -> Iterator[tuple[tuple[Choice, ...], Spec]]:
    """What is compared in a place: each strategy with each objective and ratio."""
    objectives: list[Choice] = [{"objective": spec.model_dump()} for spec in suite.objectives or ()] or [{}]
    ratios: list[Choice] = [{"regime": "matched", "ratio": ratio} for ratio in suite.ratios or ()] or [{}]
    for objective, ratio, spec in itertools.product(objectives, ratios, suite.strategies):
        yield (objective, ratio, {"strategy": spec.model_dump()}), spec


def _row_name(spec: Spec, *choices: Choice) -> str:
    """A row of the table, in words: the strategy as it is written, and what else is crossed."""
    words = [":".join([spec.name, *(f"{key}={value}" for key, value in spec.parameters.items())])]
    for choice in choices:
        words += [f"{path}={_shown(value)}" for path, value in choice.items() if path not in ("strategy", "regime")]
    return ", ".join(words)


def _shown(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def _tuned(
    settings: dict[str, Any], suite: Suite, row: str, combination: Choice, *, trial: bool = False
) -> dict[str, Any]:
    """The settings with a combination laid over them, and where it comes from."""
    tuning = {
        "row": row,
        "settings": combination,
        "trials": len(suite.combinations),
        "seeds": suite.tuning_seeds,
        "trial": trial,
    }
    matched = {"regime": "matched"} if "ratio" in combination else {}
    return _laid_over(settings, matched, combination, {"tuning": tuning})


def _laid_over(settings: dict[str, Any], *choices: Choice) -> dict[str, Any]:
    for choice in choices:
        settings = merge(settings, choice)
    return settings


def _each_once(configs: list[RunConfig]) -> list[RunConfig]:
    return list({config.model_dump_json(): config for config in configs}.values())
