"""What tables, figures and repetitions read from the parts of a record, by name, type and range.

A record's parts stay dicts, and may hold more than is named here: what later versions add is no mistake.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from maskbench.config.plain_files import MAX_NAME, MAX_PATH, NotPlain, ensure_text_line
from maskbench.config.settings import Primary

LARGEST = 1e39  # of a number; float32, in which losses are computed, ends at 3.4e38
COLUMNS = frozenset(
    [
        "run_id",
        "group",
        "evaluation",
        "label",
        "control",
        "strategy",
        "objective",
        "dataset",
        "seed",
        "primary",
        "status",
        "machine",
        "tuned",
        "trials",
        "tuning_row",
        "epochs",
        "cost/train_tflops",
    ]
)  # of the data frame of all records, beside its metrics and diagnostics


def _text_line(longest: int) -> AfterValidator:
    def check(text: str) -> str:
        try:
            ensure_text_line(text, "it", longest)
        except NotPlain as reason:
            raise ValueError(str(reason)) from None
        return text

    return AfterValidator(check)


TextLine = Annotated[str, _text_line(MAX_NAME)]
Name = Annotated[TextLine, Field(min_length=1)]
Path = Annotated[str, _text_line(MAX_PATH)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[FiniteFloat, Field(ge=-LARGEST, le=LARGEST)]
Side = Annotated[int, Field(ge=1, le=4096)]


class _Part(BaseModel):
    """Part of a record; it may hold more than is named."""

    model_config = ConfigDict(extra="allow")


class _Sizes(_Part):
    train: Count
    test: Count


class _Probed(_Part):
    name: Path
    fingerprint: Name
    sizes: _Sizes


class _Dataset(_Probed):
    mean: list[Number] | None = None
    std: list[Number] | None = None
    probed: _Probed | None = None


class _Component(_Part):
    name: Name
    version: Count
    parameters: dict[str, Any]
    distribution: Path = ""


class _External(_Part):
    """Of an encoder from elsewhere."""

    label: Name
    digest: Name
    source: Path


class _Arguments(_Part):
    patch_size: Side


class _Model(_Part):
    name: Name
    arguments: _Arguments
    encoder_parameters: Count = 0
    head_parameters: Count = 0


class _Environment(_Part):
    cpu: Path | None = None
    gpu: Path | None = None
    versions: dict[str, Path] = {}


class _Spec(_Part):
    name: Name
    parameters: dict[str, Any]


class _Data(_Part):
    dataset: Path
    img_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    in_chans: Annotated[int, Field(ge=1)]
    data_dir: Path | None = None
    probe_dataset: Path | None = None


class _ModelSettings(_Part):
    name: Name
    kwargs: dict[str, Any]


class _Train(_Part):
    epochs: Count
    batch_size: Count
    budget: Annotated[dict[str, Number], Field(min_length=1, max_length=1)] | None = None


class _Tuning(_Part):
    row: Path
    settings: dict[str, bool | int | Number | str | list[Any] | dict[str, Any] | None]
    trials: Count
    seeds: list[int]
    trial: bool


class _Config(_Part):
    strategy: _Spec
    objective: _Spec
    data: _Data
    model: _ModelSettings
    train: _Train
    probes: list[_Spec]
    seed: Count
    regime: Literal["paper", "matched"]
    ratio: Number | None = None
    system: dict[str, Any]
    primary: Primary = "linear/top1/mean"
    tuning: _Tuning | None = None


def _held_against(schema: type[_Part]) -> AfterValidator:
    """Checks a dict against `schema`, and leaves it as it is."""
    adapter = TypeAdapter(schema)

    def check(part: dict[str, Any]) -> dict[str, Any]:
        try:
            adapter.validate_python(part)
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, detail["loc"]))[:80]
            raise ValueError(f"{where}: {detail['msg'].removeprefix('Value error, ')}") from None
        return part

    return AfterValidator(check)


def _check_external(objective: dict[str, Any]) -> dict[str, Any]:
    if objective["name"] == "external":
        _External.model_validate(objective["parameters"])
    return objective


def _check_columns(numbers: dict[str, Any]) -> dict[str, Any]:
    if taken := COLUMNS & numbers.keys():
        raise ValueError(f"{min(taken)} is the name of something else in tables")
    return numbers


def _check_shares(metrics: dict[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if "/top1/" in name and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value:g}; an accuracy is a share in [0, 1]")
    return metrics


def _check_rows(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    for number, row in enumerate(curve):
        online = any(name.startswith("online/") for name in row)
        for name in ("epoch", *(("images", "cost/train_s") if online else ())):
            is_start = number == 0 and row.get("epoch") == 0 == row.get(name)  # of training from given weights
            if not row.get(name, 0.0) > 0 and not is_start:
                raise ValueError(f"row {number} has no {name}, or none above 0")
        _check_shares(row)
    return curve


Config = Annotated[dict[str, Any], _held_against(_Config)]
Strategy = Annotated[dict[str, Any], _held_against(_Component)]
Objective = Annotated[dict[str, Any], _held_against(_Component), AfterValidator(_check_external)]
Dataset = Annotated[dict[str, Any], _held_against(_Dataset)]
Model = Annotated[dict[str, Any], _held_against(_Model)]
Environment = Annotated[dict[str, Any], _held_against(_Environment)]
Metrics = Annotated[dict[str, Number], AfterValidator(_check_columns), AfterValidator(_check_shares)]
Diagnostics = Annotated[dict[str, Number | list[list[Number]]], AfterValidator(_check_columns)]
Curve = Annotated[list[dict[str, Number]], AfterValidator(_check_rows)]
