"""Strategies, objectives and probes as they are named on the command line: NAME[:key=value...],..."""

import re
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from maskbench.config.section import Section, setting
from maskbench.errors import UsageError


class Spec(Section):
    """A strategy, objective or probe by name, with the parameters that differ from its defaults."""

    name: str = setting(..., "Its registered name.")
    parameters: dict[str, Any] = setting({}, "Parameters that differ from the component's defaults.")


def parse_specs(text: str) -> list[dict[str, Any]]:
    """`random,gmml:fill=zeros:ratio=[0.5,0.75]` -> [{name, parameters}, ...]. Values are YAML."""
    specs = []
    for part in re.split(r",(?![^\[]*\])", text):
        name, *assignments = part.strip().split(":")
        if "=" in name:
            raise UsageError(f"{name!r} is no name; separate parameters by colons, as in NAME:key=value:{name}")
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


def parse_one_spec(value: Any) -> Any:
    """`gmml:fill=zeros` -> {name, parameters}; anything but text is left to pydantic."""
    if not isinstance(value, str):
        return value
    specs = parse_specs(value)
    if len(specs) > 1:
        raise UsageError(f"{value!r} names several; give one NAME[:key=value...]")
    return specs[0]


def _specs(value: Any) -> Any:
    if isinstance(value, str):
        return parse_specs(value)
    return [parse_one_spec(one) for one in value] if isinstance(value, list) else value


OneSpec = Annotated[Spec, BeforeValidator(parse_one_spec)]
Specs = Annotated[list[Spec], BeforeValidator(_specs), Field(min_length=1)]
