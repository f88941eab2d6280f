"""Options and errors that commands share."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from maskbench.errors import UsageError

T = TypeVar("T")


class Regime(StrEnum):
    paper = "paper"
    matched = "matched"


Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE.py|MODULE", help="Strategies of your own; repeatable.")
]


def load_plugins(plugins: list[str] | None) -> list[str]:
    """Import plugins; the names of the strategies that they register."""
    from maskbench.strategy import REGISTRY

    return [name for plugin in plugins or [] for name in REGISTRY.load(plugin)]


def writing(folder: Path, write: Callable[[], T]) -> T:
    """What `write` returns; a disk that refuses is the user's to put right."""
    try:
        return write()
    except OSError as error:
        raise UsageError(f"cannot write under {folder}: {error.strerror}; free space or change permissions") from None
