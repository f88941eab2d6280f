"""Strategies, objectives and probes as they are named on the command line: NAME[:key=value...],..."""

import re
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from maskbench.config.section import Section, setting
from maskbench.errors import UsageError, quoted, unquoted


class Spec(Section):
    """A strategy, objective or probe by name, with the parameters that differ from its defaults."""

    name: str = setting(..., "Its registered name.")
    parameters: dict[str, Any] = setting({}, "Parameters that differ from the component's defaults.")


def parse_value(text: str) -> Any:
    """The number, word, list or mapping that YAML reads in a text, e.g. "[0.5, 0.75]" -> [0.5, 0.75].

    UsageError where it is no YAML, such as a bracket that is not closed, or something else, such as a date.
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: of a date such as 2020-13-45
        raise UsageError(f"{quoted(text)} is not a YAML value; close its brackets, or put it in quotes") from None
    if not _is_plain(value):
        raise UsageError(f"{quoted(text)} is no number, word, list or mapping; put it in quotes")
    return value


def _is_plain(value: Any) -> bool:
    """Whether JSON has such values. Brackets that stand in several places, by an alias of YAML, count as other: a line
    of them means more values than any memory holds."""
    waiting, known = [value], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            if id(one) in known or not all(isinstance(key, str) for key in one if isinstance(one, dict)):
                return False
            known.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one
        elif not (one is None or isinstance(one, bool | int | float | str)):
            return False
    return True


def parse_specs(text: str) -> list[dict[str, Any]]:
    """`random,gmml:fill=zeros:ratio=[0.5,0.75]` -> [{name, parameters}, ...]. Values are YAML."""
    specs = []
    for part in re.split(r",(?![^\[]*\])", text):
        name, *assignments = part.strip().split(":")
        if "=" in name:
            example = f"as in NAME:key=value:{unquoted(name)}"
            raise UsageError(f"{quoted(name)} is no name; separate parameters by colons, {example}")
        parameters = {}
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals:
                form = f"{unquoted(name)}:key=value"
                raise UsageError(f"{quoted(part.strip())}: write parameters as {form}, not {quoted(assignment)}")
            parameters[key.strip()] = parse_value(value)
        if not name:
            raise UsageError(f"{quoted(text)} names nothing between two commas; write NAME[:key=value...],...")
        specs.append({"name": name, "parameters": parameters})
    return specs


def parse_one_spec(value: Any) -> Any:
    """`gmml:fill=zeros` -> {name, parameters}; anything but text is left to pydantic."""
    if not isinstance(value, str):
        return value
    specs = parse_specs(value)
    if len(specs) > 1:
        raise UsageError(f"{quoted(value)} names several; give one NAME[:key=value...]")
    return specs[0]


def _specs(value: Any) -> Any:
    if isinstance(value, str):
        return parse_specs(value)
    return [parse_one_spec(one) for one in value] if isinstance(value, list) else value


OneSpec = Annotated[Spec, BeforeValidator(parse_one_spec)]
Specs = Annotated[list[Spec], BeforeValidator(_specs), Field(min_length=1)]
