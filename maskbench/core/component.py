"""A named thing with checked parameters: what strategies, objectives and probes have in common."""

import dataclasses
import functools
from typing import Any, ClassVar, Self, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from maskbench.errors import UsageError, unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A frozen, keyword-only dataclass whose fields are its parameters: typed, checked, recorded, swept.

    Types may be any that pydantic knows; ranges go into the type (`Ratio`, `Annotated[int, Field(ge=1)]`). A wrong
    value is a UsageError however the component is made. `version` goes up whenever results change.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for field, adapter in _adapters(cast(Any, type(self))).items():
            try:
                value = adapter.validate_python(getattr(self, field))
            except ValidationError as error:
                raise UsageError(self._complaint(field, error)) from None
            object.__setattr__(self, field, value)

    def _complaint(self, field: str, error: ValidationError) -> str:
        reasons = dict.fromkeys(
            detail["msg"]
            .removeprefix("Value error, ")
            .removeprefix("Input should be ")
            .replace("a valid tuple", "a list")
            for detail in error.errors()
        )
        label = self.name or type(self).__name__
        return f"{label}: {field}={getattr(self, field)!r} should be {', or '.join(reasons)}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter with its value, in JSON's types."""
        return {
            field: adapter.dump_python(getattr(self, field), mode="json")
            for field, adapter in _adapters(cast(Any, type(self))).items()
        }

    def replace(self, **parameters: Any) -> Self:
        """The same component with these parameters changed; an unknown one is a UsageError with the nearest name."""
        known = _adapters(cast(Any, type(self)))
        for parameter in parameters:
            if parameter not in known:
                raise unknown(f"parameter of {self.name}", parameter, known)
        return dataclasses.replace(self, **parameters)


@functools.cache
def _adapters(cls: Any) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(cls)}
