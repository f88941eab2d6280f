"""What all parts of a configuration have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Part of a configuration: frozen, checked, without room for a misspelt name, and every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def setting(default: Any, description: str, *, flag: str = "", metavar: str = "") -> Any:
    """A field of a section.

    Args:
        default: Its default; `...` where there is none.
        description: What it means, in one or two sentences. Help texts and the settings reference show it.
        flag: Names of the command-line option that sets it, such as "--epochs" or "--compile/--no-compile". Empty: it
            is set by `--set SECTION.NAME=VALUE` only.
        metavar: How help texts show the option's value; by its type if empty.
    """
    return Field(default, description=description, json_schema_extra={"flag": flag, "metavar": metavar})
