"""A named thing with checked parameters: what strategies, objectives and probes have in common."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Self, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from maskbench.errors import UsageError, quoted, unknown_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A frozen, keyword-only dataclass whose fields are its parameters: typed, checked, recorded, swept.

    A field's type may be any that pydantic knows. Its range goes into the type, e.g. `Ratio` or
    `Annotated[int, Field(ge=1)]`. Every field has a default.

    Attributes:
        name: The registered name, set by `@register`.
        version: Raise it by one whenever results change. It is part of the run id, so old runs are not taken for new.

    Raises:
        UsageError: A value has the wrong type or is out of range, however the component is made.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for field, adapter in _type_adapters(cast(Any, type(self))).items():
            try:
                value = adapter.validate_python(getattr(self, field))
            except ValidationError as error:
                raise UsageError(self._describe_error(field, error)) from None
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{self.name or type(self).__name__}: {field}={value!r} should be a finite number")
            object.__setattr__(self, field, value)

    def _describe_error(self, field: str, error: ValidationError) -> str:
        reasons = dict.fromkeys(
            detail["msg"]
            .removeprefix("Value error, ")
            .removeprefix("Input should be ")
            .replace("a valid tuple", "a list")
            for detail in error.errors()
        )
        label = self.name or type(self).__name__
        return f"{label}: {field}={quoted(getattr(self, field))} should be {', or '.join(reasons)}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter's value by name, in JSON's types."""
        return {
            field: adapter.dump_python(getattr(self, field), mode="json")
            for field, adapter in _type_adapters(cast(Any, type(self))).items()
        }

    def replace(self, **parameters: Any) -> Self:
        """The same component with some parameters changed.

        Args:
            parameters: New values by name.

        Raises:
            UsageError: No parameter has this name (the error suggests the nearest), or a value is out of range.
        """
        known = _type_adapters(cast(Any, type(self)))
        for parameter in parameters:
            if parameter not in known:
                raise unknown_name(f"parameter of {self.name}", parameter, known)
        return dataclasses.replace(self, **parameters)


@functools.cache
def _type_adapters(cls: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(cls)}
