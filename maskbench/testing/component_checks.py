"""What is checked of strategies, objectives and probes alike: the docstring and the parameters."""

import json
import math

from maskbench.core.component import Component
from maskbench.testing.mistakes import Mistake, ensure


def ensure_documented(component: Component, remedy: str) -> None:
    """Raise a Mistake unless the component's own class has a docstring: dataclass writes one where there is none."""
    text = (vars(type(component)).get("__doc__") or "").strip()
    ensure(text and not text.startswith(f"{type(component).__name__}("), f"no docstring; {remedy}", "")


def ensure_parameters_survive_json(component: Component) -> None:
    """Raise a Mistake unless the component can be made again from its record."""
    try:
        text = json.dumps(component.parameters)
    except TypeError as error:
        raise Mistake(f"parameters cannot be written to the record: {error}; use JSON's types", "") from None
    again = type(component)(**json.loads(text))
    ensure(again == component, f"{component.parameters} comes back from JSON as {again.parameters}; use its types", "")


def ensure_parameters_bounded(component: Component) -> None:
    """Raise a Mistake for a number that may be anything."""
    for name, value in component.parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        ensure(not _accepts(component, name, math.nan), f"{name} = nan is accepted; bound it, e.g. by Ratio", name)
        both = _accepts(component, name, -1e9) and _accepts(component, name, 1e9)
        ensure(not both, f"{name} = -1e9 and 1e9 are both accepted; bound it, e.g. by Field(ge=0)", name)


def _accepts(component: Component, name: str, value: float) -> bool:
    try:
        component.replace(**{name: int(value) if isinstance(component.parameters[name], int) else value})
    except ValueError:
        return False
    return True
