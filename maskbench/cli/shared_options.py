"""Options that commands share, and what commands do with files, plugins and interruptions."""

import math
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, TypeVar

import typer

from maskbench.errors import Failure, UsageError
from maskbench.runtime.atomic_files import DISK_ERRNOS, describe_os_error
from maskbench.runtime.interrupt import SIGNALS, Interrupted
from maskbench.runtime.launcher import detect_launch

T = TypeVar("T")


class Regime(StrEnum):
    paper = "paper"
    matched = "matched"


def finite(value: float | None) -> float | None:
    """For options with a number: typer takes nan and inf for numbers in any range."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def folder_name(text: str | Path) -> Path:
    """For options that name a folder: without a name, files would go to the working directory."""
    if not str(text).strip():
        raise typer.BadParameter("the name of a folder is empty.")
    return Path(text)


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="FILE.py|MODULE", help="Load strategies, objectives or probes of your own. Repeatable."
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Change any setting. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CheckpointEvery = Annotated[
    float | None,
    typer.Option(
        min=0,
        callback=finite,
        metavar="SECONDS",
        help="Time between checkpoints. Default: 300, or more where writing would take over 1 % of the time.",
    ),
]


def load_plugins(plugins: list[str] | None) -> list[str]:
    """Import plugins; the names of the strategies that they register."""
    from maskbench.strategy import REGISTRY

    return [name for plugin in plugins or [] for name in REGISTRY.load(plugin)]


def write_under(folder: Path, write: Callable[[], T]) -> T:
    """What `write` returns. UsageError or Failure, with the remedy, where the disk refuses."""
    try:
        return write()
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            raise Failure(describe_os_error(error)) from None
        raise UsageError(f"cannot write under {folder}: {error.strerror}; free space or change permissions") from None


@contextmanager
def print_resume_command() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP leave with the command that resumes; outside a training step, where there is nothing
    to save, at once. A SIGHUP that is ignored, as under nohup, stays so."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted("stopped", number)

    before = {number: signal.getsignal(number) for number in SIGNALS if number != signal.SIGINT}
    for stopping, handler in before.items():
        if stopping == signal.SIGTERM or handler != signal.SIG_IGN:
            signal.signal(stopping, stop)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as interruption:
        many = ", in any number of processes" if detect_launch().world_size > 1 else ""
        again = shlex.join(["maskbench", *(word for word in sys.argv[1:] if word != "--force")])
        number = getattr(interruption, "signal", signal.SIGINT)
        raise Interrupted(f"{str(interruption) or 'stopped'}; to go on{many}: {again}", number) from None
    finally:
        for stopping, handler in before.items():
            signal.signal(stopping, handler)
