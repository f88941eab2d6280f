"""Options that belong together, taken by a command as one parameter.

A parameter whose type is a dataclass stands for the dataclass's fields, each an option of its own. One that is
annotated with an `OptionGroup` stands for that group's options. So no command repeats what is written elsewhere, and
a new setting in the configuration's schema is an option at once.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, get_args, get_type_hints, runtime_checkable


@runtime_checkable
class OptionGroup(Protocol):
    """Several options, and the one value that a command gets for them."""

    def parameters(self) -> list[inspect.Parameter]:
        """The options, as parameters that typer understands."""

    def build(self, values: Mapping[str, Any]) -> Any:
        """The command's argument, from the options' values by name."""


class DataclassOptions:
    """The fields of a dataclass, annotated as typer's options, as a group."""

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def parameters(self) -> list[inspect.Parameter]:
        hints = get_type_hints(self.cls, include_extras=True)
        return [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hint)
            for field in dataclasses.fields(self.cls)
            if (hint := hints[field.name])
        ]

    def build(self, values: Mapping[str, Any]) -> Any:
        return self.cls(**values)


def expand_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer sees it: every group replaced by its options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, OptionGroup] = {}
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        group = _group_of(hints[name])
        if group is None:
            options.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            groups[name] = group
            options += group.parameters()

    def invoke(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group.build({option.name: values.pop(option.name) for option in group.parameters()})
        command(**values)

    invoke.__name__, invoke.__doc__ = command.__name__, command.__doc__
    invoke.__annotations__ = {option.name: option.annotation for option in options}
    invoke.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return invoke


def _group_of(hint: Any) -> OptionGroup | None:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return DataclassOptions(hint)
    return next((each for each in get_args(hint)[1:] if isinstance(each, OptionGroup)), None)
