"""What a run that is not done yet says of itself, in small files in its folder that `maskbench status` reads."""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskbench.runs.reporter import Reporter

if TYPE_CHECKING:
    from maskbench.data.splits import Splits
    from maskbench.record import RunRecord
    from maskbench.runs.plan import Plan
    from maskbench.training.train_state import State

EVERY_S = 5.0  # between two notes of how far a run has come
PROGRESS, TICKET = "progress.json", "ticket.json"


@dataclass(frozen=True)
class Ticket:
    """Who is going to do a run that nobody is at yet: a process here or on another host, or a job in Slurm's queue."""

    on: str
    host: str = ""
    pid: int = 0
    job: str | None = None  # of Slurm, e.g. 17_3

    def write(self, folder: Path) -> None:
        """Into a run's folder, made if need be. OSError where that cannot be."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TICKET).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Ticket | None":
        """A run's ticket, None where there is none."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads((folder / TICKET).read_text()))
        return None


@contextmanager
def announced(planned: Iterable["Plan"], on: str) -> Iterator[None]:
    """Within the block, runs that have no record have a ticket of this process, until somebody begins them. Where none
    can be written there are none: they only inform."""
    ticket = Ticket(on, socket.gethostname(), os.getpid())
    folders = [each.folder for each in planned if not (each.folder / "record.json").exists()]
    with suppress(OSError):
        for folder in folders:
            if not in_queue(folder):
                ticket.write(folder)
    try:
        yield
    finally:
        for folder in folders:
            if Ticket.read(folder) == ticket:
                tear_up(folder)


def in_queue(folder: Path) -> bool:
    """Whether a run's ticket is one of a scheduler's, which outlives the process that asked for it."""
    ticket = Ticket.read(folder)
    return ticket is not None and ticket.job is not None


def tear_up(folder: Path) -> None:
    """Remove a run's ticket, and its folder where nothing else was ever in it."""
    with suppress(OSError):
        (folder / TICKET).unlink(missing_ok=True)
        folder.rmdir()


class Published(Reporter):
    """A reporter that keeps progress.json in the run's folder, every few seconds, beside what another one tells. A
    file that cannot be written stops no run."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._folder, self._steps = Path(), 0
        self._began: tuple[int, float] | None = None  # the first step seen and when
        self._written = 0.0

    def note(self, text: str) -> None:
        self.reporter.note(text)

    def begin(self, planned: "Plan", splits: "Splits", steps: int) -> None:
        self._folder, self._steps, self._began = planned.folder, steps, None
        if not in_queue(self._folder):
            tear_up(self._folder)  # from now on the lease says who is at it
        self.reporter.begin(planned, splits, steps)

    def step(self, state: "State", loss: float | None) -> None:
        self.reporter.step(state, loss)
        now = time.monotonic()
        self._began = self._began or (state.step, now)
        if now - self._written >= EVERY_S:
            first, since = self._began
            pace = (now - since) / (state.step - first) if state.step > first else None
            left = None if pace is None else round(pace * (self._steps - state.step), 1)
            self._publish("training", state.step, left)

    def epoch(self, row: dict[str, float]) -> None:
        self.reporter.epoch(row)

    def probing(self) -> None:
        self.reporter.probing()
        self._publish("probing", self._steps, 0.0)

    def end(self, record: "RunRecord | None") -> None:
        self.reporter.end(record)
        with suppress(OSError):
            (self._folder / PROGRESS).unlink(missing_ok=True)
        if record is not None:
            tear_up(self._folder)

    def _publish(self, phase: str, step: int, left_s: float | None) -> None:
        self._written = time.monotonic()
        content = {"phase": phase, "step": step, "steps": self._steps, "left_s": left_s}
        with suppress(OSError):
            (self._folder / PROGRESS).write_text(json.dumps(content))
