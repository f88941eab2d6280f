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

from maskbench.config.claims import Claim
from maskbench.config.resolve import (
    explain_error,
    load_preset,
    merge,
    parse_config,
    parse_seeds,
    read_yaml,
    untrained_controls,
)
from maskbench.config.section import Section, setting
from maskbench.config.settings import Model, RunConfig, Train
from maskbench.config.specs import OneSpec, Spec, Specs, parse_one_spec
from maskbench.errors import UsageError, unknown_name

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
    """A grid of runs: every strategy with every objective, ratio, data set, model and seed, and the controls once for
    each data set, model and seed. Settings lie over the preset's in this order: `set`, `budget`, then what is crossed.
    """

    preset: str = setting("quick", "Preset that settings start from.")
    set: Choice = setting({}, "Any setting by its dotted path, such as train.lr: 1e-3.")
    budget: (
        Annotated[
            dict[Literal["epochs", "seconds", "gflops"], Annotated[float, Field(gt=0)]],
            Field(min_length=1, max_length=1),
        ]
        | None
    ) = setting(None, "Length of each run's training, in epochs, seconds or GFLOPs. Default: the preset's epochs.")
    strategies: Specs | None = setting(None, "Strategies to compare: NAME[:key=value...].")
    rows: Annotated[list[Choice], Field(min_length=1)] | None = setting(
        None,
        "In place of strategies, objectives and ratios: what each row of the table is, as settings by their dotted "
        "paths, such as {strategy: gmml, objective: gmml}.",
    )
    objectives: Annotated[list[OneSpec], Field(min_length=1)] | None = setting(
        None, "Objectives to cross with the strategies. Default: the preset's."
    )
    ratios: list[Annotated[float, Field(gt=0, lt=1)]] | None = setting(
        None, "Ratios to cross with the strategies, in the matched regime."
    )
    datasets: list[str] | None = setting(None, "Data sets, each compared apart.")
    models: list[Model] | None = setting(
        None, "Models, each compared apart. What one leaves out is the preset's; a name alone resets kwargs."
    )
    seeds: Seeds = setting([0], "Seeds: a list, or 0-4.")
    tune: dict[str, Annotated[list[Value], Field(min_length=1)]] = setting(
        {},
        "Setting -> values to try, such as {lr: [1e-3, 2e-3]}. Each strategy is tried with every combination and every "
        "tuning seed; its best combination on validation is what `seeds` then run. Controls are not tuned.",
    )
    tuning_seeds: Seeds = setting([1000], "Seeds of the trials; none of them may be among `seeds`.")
    controls: list[str] = setting(list(CONTROLS), "Control rows to add: random-init, supervised.")
    claims: list[Claim] = setting(
        [], "What papers say about two rows: says, source, better, than, metric. The tables give a verdict on each."
    )

    @property
    def combinations(self) -> list[Choice]:
        """The combinations of settings to try for each strategy: dotted path -> value. Empty if nothing is tuned."""
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
        raise unknown_name("suite", name_or_path, suite_names())
    try:
        suite = Suite.model_validate(settings)
    except ValidationError as error:
        raise explain_error(error, Suite) from None
    _check_rows(suite)
    _check_tuning(suite)
    return name, suite


def _check_rows(suite: Suite) -> None:
    if suite.rows is None and suite.strategies is None:
        raise UsageError("strategies is missing")
    given = [name for name in ("strategies", "objectives", "ratios") if getattr(suite, name) is not None]
    if suite.rows is not None and given:
        raise UsageError(f"a suite gives either rows or {given[0]}; drop one of the two")
    nameless = [row for row in suite.rows or () if "strategy" not in row]
    if nameless:
        raise UsageError(f"rows: {nameless[0]} names no strategy; add strategy: NAME")


def _check_tuning(suite: Suite) -> None:
    fixed = sorted(_tuned_names(suite) & set(FIXED))
    if fixed:
        raise UsageError(f"tune: {fixed[0]} is what makes runs comparable; set it for all, under set or budget")
    if suite.budget is not None and "epochs" not in suite.budget and "warmup_epochs" in _tuned_names(suite):
        raise UsageError("tune: under a budget the warm-up keeps its share of the epochs; drop warmup_epochs")
    if "ratio" in suite.tune and suite.ratios:
        raise UsageError("a suite either tunes the ratio or crosses ratios; drop one of the two")


def _tuned_names(suite: Suite) -> set[str]:
    return {name.removeprefix("train.") for name in suite.tune}


def expand_suite(
    name: str, suite: Suite, overrides: Choice, chosen: Callable[[str], Choice] | None = None
) -> list[RunConfig]:
    """A configuration for each run, seeds outermost, so that comparisons are complete early, controls first.

    overrides: dotted settings from the command line, over everything else. chosen: of a row that was tuned, the
    combination that was best; the first one if not given.
    """
    tried = suite.combinations
    configs = []
    for place, settings in _crossed_settings(name, suite, suite.seeds, overrides):
        for control in suite.controls:
            if control == "random-init":
                configs += untrained_controls(settings)
            else:
                configs.append(parse_config(merge(settings, {"strategy": "none", "objective": control})))
        for choices, spec in _rows(suite):
            run = _merge_all(settings, *choices)
            if tried:
                row = _row_name(spec, *place, *choices)
                run = _with_tuning(run, suite, row, tried[0] if chosen is None else chosen(row))
            configs.append(parse_config(run))
    return _unique(configs)


def expand_trials(name: str, suite: Suite, overrides: Choice) -> list[RunConfig]:
    """The runs by which each row's settings are chosen, in a folder of their own; none where nothing is tuned.
    UsageError where a seed serves both choice and comparison."""
    shared = set(suite.seeds) & set(suite.tuning_seeds)
    if suite.tune and shared:
        raise UsageError(f"seed {min(shared)} is among the seeds and the tuning_seeds; choose others for one of them")
    configs = []
    for place, settings in _crossed_settings(name, suite, suite.tuning_seeds, overrides):
        settings = {**settings, "output": str(Path(settings["output"]) / "trials")}
        for choices, spec in _rows(suite):
            row = _row_name(spec, *place, *choices)
            for combination in suite.combinations:
                run = _with_tuning(_merge_all(settings, *choices), suite, row, combination, trial=True)
                configs.append(parse_config(run))
    return _unique(configs)


def _crossed_settings(
    name: str, suite: Suite, seeds: list[int], overrides: Choice
) -> Iterator[tuple[tuple[Choice, ...], dict[str, Any]]]:
    """Each seed on each data set with each model: the choice of the latter two, and the settings of all runs there."""
    _check_overrides(suite, overrides)
    base = _apply_budget(merge({**load_preset(suite.preset), "output": f"results/{name}"}, suite.set), suite)
    datasets: list[Choice] = [{"data.dataset": dataset} for dataset in suite.datasets or ()] or [{}]
    models: list[Choice] = [{"model": _model_settings(model)} for model in suite.models or ()] or [{}]
    for seed, *place in itertools.product([{"seed": seed} for seed in seeds], datasets, models):
        yield tuple(place), _merge_all(base, seed, *place, overrides)


def _model_settings(model: Model) -> Choice:
    """What a suite says of a model: what it leaves out is the preset's, but for the arguments of another model."""
    settings = model.model_dump(exclude_unset=True)
    return {**settings, "kwargs": settings.get("kwargs", {})} if "name" in settings else settings


def _check_overrides(suite: Suite, overrides: Choice) -> None:
    """UsageError for a flag over which the suite would lay a list of its own."""
    crossed = {"objectives": "objective", "ratios": "ratio", "datasets": "data.dataset", "models": "model"}
    lists = {path: name for name, path in crossed.items() if getattr(suite, name) is not None}
    lists |= {path: "rows" for row in suite.rows or () for path in row}
    lists |= {path: "tune" for combination in suite.combinations for path in combination}
    for path in overrides:
        own = next((own for own in lists if f"{path}.".startswith(f"{own}.")), None)
        if own is not None:
            raise UsageError(f"the suite lists values for {own}, under {lists[own]}; change them there, not by a flag")


def _apply_budget(settings: dict[str, Any], suite: Suite) -> dict[str, Any]:
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
    """What is compared in a place: the rows that the suite gives, or each strategy with each objective and ratio."""
    for row in suite.rows or ():
        matched = {"regime": "matched"} if "ratio" in row else {}
        yield (matched | row,), Spec.model_validate(parse_one_spec(row["strategy"]))
    objectives: list[Choice] = [{"objective": spec.model_dump()} for spec in suite.objectives or ()] or [{}]
    ratios: list[Choice] = [{"regime": "matched", "ratio": ratio} for ratio in suite.ratios or ()] or [{}]
    for objective, ratio, spec in itertools.product(objectives, ratios, suite.strategies or ()):
        yield (objective, ratio, {"strategy": spec.model_dump()}), spec


def _row_name(spec: Spec, *choices: Choice) -> str:
    """A row of the table, in words: the strategy as it is written, and what else is crossed."""
    words = [":".join([spec.name, *(f"{key}={value}" for key, value in spec.parameters.items())])]
    for choice in choices:
        words += [f"{path}={_to_words(value)}" for path, value in choice.items() if path not in ("strategy", "regime")]
    return ", ".join(words)


def _to_words(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def _with_tuning(
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
    return _merge_all(settings, matched, combination, {"tuning": tuning})


def _merge_all(settings: dict[str, Any], *choices: Choice) -> dict[str, Any]:
    for choice in choices:
        settings = merge(settings, choice)
    return settings


def _unique(configs: list[RunConfig]) -> list[RunConfig]:
    return list({config.model_dump_json(): config for config in configs}.values())
