"""Options generated from the configuration's schema: a setting is written once, in maskbench/config/settings.py."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from maskbench.config.section import Section
from maskbench.config.settings import Data, Model, RunConfig, System, Train

SECTIONS = {RunConfig: "What to run", Data: "Data", Model: "Model", Train: "Training", System: "Hardware"}


@dataclass(frozen=True)
class Setting:
    """A setting that has an option. path: where it lies in the configuration, such as train.lr."""

    path: str
    section: str
    field: FieldInfo

    @property
    def flag(self) -> str:
        """Names of the option, such as --lr or --compile/--no-compile."""
        return str(_extra(self.field)["flag"])

    @property
    def name(self) -> str:
        """Of the option's parameter, such as warmup_epochs."""
        return self.flag.partition("/")[0].removeprefix("--").replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        """The option as a parameter: None where it is not given."""
        kind = option_type(self.field.annotation, self.name)
        shown = {"metavar": metavar} if (metavar := _extra(self.field)["metavar"]) else {}
        option = typer.Option(self.flag, help=self.field.description, rich_help_panel=self.section, **shown)
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


class SettingOptions:
    """The options of settings, as a group: those of all settings that have one, or of the paths that are named.

    A command gets {path: value} of the options that were given.
    """

    def __init__(self, *paths: str) -> None:
        known = {setting.path: setting for setting in settings_with_options()}
        self.settings = [known[path] for path in paths or known]

    def parameters(self) -> list[inspect.Parameter]:
        return [setting.parameter() for setting in self.settings]

    def build(self, values: Mapping[str, Any]) -> dict[str, Any]:
        given = {setting.path: values[setting.name] for setting in self.settings}
        return {
            path: str(value) if isinstance(value, StrEnum) else value
            for path, value in given.items()
            if value is not None
        }


def settings_with_options(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting of the schema that names an option, depth first, in the schema's order."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and field.annotation in SECTIONS:
            yield from settings_with_options(field.annotation, f"{prefix}{name}.")
        elif _extra(field)["flag"]:
            yield Setting(prefix + name, SECTIONS[section], field)


def option_type(annotation: Any, name: str) -> type:
    """The type by which the command line reads a setting: bool, int, float, one of a few words, or text, which the
    schema then parses."""
    kinds = [kind for kind in _alternatives(annotation) if kind is not type(None)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if bool in kinds or True in words:
        return bool
    if words and len(kinds) == 1:
        return StrEnum(name, {str(word): str(word) for word in words})  # type: ignore[return-value]
    return kinds[0] if kinds[0] in (int, float) and not words else str


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union, without what is annotated to them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for each in get_args(annotation):
            yield from _alternatives(each)
    else:
        yield annotation


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {"flag": "", "metavar": ""}
