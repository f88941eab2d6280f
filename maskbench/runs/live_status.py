"""Small files in the folder of an unfinished run that `maskbench status` reads: its place in a queue, how far it is."""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from maskbench.config.plain_files import MAX_STATUS, NotPlain, parse_json, read_regular_file
from maskbench.config.record_schema import Count, Name, Number, TextLine
from maskbench.runs.reporter import Reporter
from maskbench.runtime.atomic_files import make_folder, write_atomically

if TYPE_CHECKING:
    from maskbench.data.splits import Splits
    from maskbench.record import RunRecord
    from maskbench.runs.plan import Plan
    from maskbench.training.train_state import TrainState

EVERY_S = 5.0  # between two notes of how far a run has come
PROGRESS, TICKET = "progress.json", "ticket.json"


T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", strict=True)
LARGEST_PID = 2**31 - 1


@dataclass(frozen=True, config=STRICT)
class Ticket:
    """Who is going to do a run that has not begun: a process here or on another host, or a job in Slurm's queue."""

    on: Name
    host: TextLine = ""
    pid: Annotated[int, Field(ge=0, le=LARGEST_PID)] = 0
    job: Name | None = None  # of Slurm, e.g. 17_3

    def write(self, folder: Path) -> None:
        """Into a run's folder, made if need be. OSError where that cannot be, UsageError where the folder is a link."""
        make_folder(folder.parent.parent, folder.parent.name, folder.name)
        write_atomically(folder / TICKET, json.dumps(asdict(self)), sync=False)

    @classmethod
    def read(cls, folder: Path) -> "Ticket | None":
        """A run's ticket, None where there is none that can be read."""
        with suppress(NotPlain):
            return read_ticket(folder)
        return None


@dataclass(frozen=True, config=STRICT)
class Progress:
    """How far a run is. steps: of the whole training. left_s: seconds until its end, None where they are unknown."""

    phase: Name
    step: Count
    steps: Count
    left_s: Annotated[Number, Field(ge=0)] | None


def read_ticket(folder: Path) -> Ticket | None:
    """A run's ticket, None where there is none. NotPlain for a file that is none."""
    return _read(folder / TICKET, TypeAdapter(Ticket))


def read_progress(folder: Path) -> Progress | None:
    """What a run last wrote of its progress, None where there is nothing. NotPlain for a file that is none."""
    return _read(folder / PROGRESS, TypeAdapter(Progress))


def _read(path: Path, schema: TypeAdapter[T]) -> T | None:
    try:
        content = read_regular_file(path, MAX_STATUS, follow_link=False)
        parse_json(content)
        return schema.validate_json(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotPlain(f"it cannot be read: {error.strerror}") from None
    except ValidationError as error:
        detail = error.errors()[0]
        raise NotPlain(f"{'.'.join(map(str, detail['loc']))[:80] or 'it'}: {detail['msg']}") from None


@contextmanager
def issue_tickets(plan: Iterable["Plan"], on: str) -> Iterator[None]:
    """Within the block, runs without a record have a ticket of this process until somebody begins them.

    Where no ticket can be written there is none: they only inform.
    """
    ticket = Ticket(on, socket.gethostname(), os.getpid())
    folders = [each.folder for each in plan if not (each.folder / "record.json").exists()]
    with suppress(OSError):
        for folder in folders:
            if not has_scheduler_ticket(folder):
                ticket.write(folder)
    try:
        yield
    finally:
        for folder in folders:
            if Ticket.read(folder) == ticket:
                remove_ticket(folder)


def has_scheduler_ticket(folder: Path) -> bool:
    """Whether a run's ticket is a scheduler's, which outlives the process that submitted it."""
    ticket = Ticket.read(folder)
    return ticket is not None and ticket.job is not None


def remove_ticket(folder: Path) -> None:
    """Remove a run's ticket, and its folder where nothing else was ever in it."""
    with suppress(OSError):
        (folder / TICKET).unlink(missing_ok=True)
        folder.rmdir()


class StatusReporter(Reporter):
    """Updates progress.json in the run's folder every few seconds, and passes everything on to another reporter.

    A file that cannot be written stops no run.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._folder, self._steps = Path(), 0
        self._first_step: tuple[int, float] | None = None  # the first step seen and when
        self._written = 0.0

    def note(self, text: str) -> None:
        self.reporter.note(text)

    def begin(self, plan: "Plan", splits: "Splits", steps: int) -> None:
        self._folder, self._steps, self._first_step = plan.folder, steps, None
        if not has_scheduler_ticket(self._folder):
            remove_ticket(self._folder)  # from now on the lease says who is at it
        self.reporter.begin(plan, splits, steps)

    def step(self, state: "TrainState", loss: float | None) -> None:
        self.reporter.step(state, loss)
        now = time.monotonic()
        self._first_step = self._first_step or (state.step, now)
        if now - self._written >= EVERY_S:
            first, since = self._first_step
            pace = (now - since) / (state.step - first) if state.step > first else None
            left = None if pace is None else round(pace * (self._steps - state.step), 1)
            self._write_progress("training", state.step, left)

    def epoch(self, row: dict[str, float]) -> None:
        self.reporter.epoch(row)

    def probing(self) -> None:
        self.reporter.probing()
        self._write_progress("probing", self._steps, 0.0)

    def end(self, record: "RunRecord | None") -> None:
        self.reporter.end(record)
        with suppress(OSError):
            (self._folder / PROGRESS).unlink(missing_ok=True)
        if record is not None:
            remove_ticket(self._folder)

    def _write_progress(self, phase: str, step: int, left_s: float | None) -> None:
        self._written = time.monotonic()
        content = asdict(Progress(phase, step, self._steps, left_s))
        with suppress(OSError):
            write_atomically(self._folder / PROGRESS, json.dumps(content), sync=False)
