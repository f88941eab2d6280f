"""Which runs of a results folder are queued, running, interrupted, done or failed.

From their files alone, so any machine that sees the folder can tell.
"""

import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from maskbench.config.plain_files import NotPlain
from maskbench.errors import UsageError
from maskbench.record import UnreadableRecord, read_record_of_run, results_folders_below
from maskbench.runs.lease import Holder, read_holder
from maskbench.runs.live_status import PROGRESS, TICKET, Ticket, read_progress, read_ticket
from maskbench.runtime.escaping import print_message
from maskbench.runtime.slurm_queue import Job, jobs_in_queue

State = Literal["running", "queued", "interrupted", "failed", "done"]
STATES: tuple[State, ...] = ("running", "queued", "interrupted", "failed", "done")
Queue = Callable[[], dict[str, Job] | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """The state of a run.

    Attributes:
        run_id: The run.
        state: running, queued, interrupted, failed or done.
        where: Its process and host, or its job.
        step: Steps of training made; None: unknown.
        steps: Steps of the whole training; None: unknown.
        left_s: Seconds until the end of training, at the pace so far.
        note: What else there is to say.
    """

    run_id: str
    state: State
    where: str = ""
    step: int | None = None
    steps: int | None = None
    left_s: float | None = None
    note: str = ""


def read_statuses(folder: Path) -> list[Status]:
    """The status of every run under a results folder, trials first. UsageError where there is no such folder, or where
    the runs are in folders below it."""
    if not folder.is_dir():
        raise UsageError(f"no results folder {folder}; give the --output of a run, e.g. results/quick")
    if not (folder / "runs").is_dir() and (below := results_folders_below(folder)):
        raise UsageError(f"no runs in {folder}; give one of {', '.join(below)}")
    queue = cache(jobs_in_queue)  # asked once, and only if a run has a place in it
    runs = [path for place in (folder / "trials", folder) for path in sorted(place.glob("runs/*")) if path.is_dir()]
    return [read_status(path, queue) for path in runs]


def read_status(folder: Path, queue: Queue = jobs_in_queue) -> Status:
    """The status of the run in `folder`."""
    state, error = _read_record(folder)
    if state == "done":
        return Status(folder.name, "done")
    if state == "diverged":
        return Status(folder.name, "failed", note=error)
    running_in, ticket = read_holder(folder), _read(read_ticket, folder, TICKET)
    if running_in is not None and running_in.alive:
        return _running(folder, running_in, ticket)
    if ticket is not None:
        queued = _queued(folder.name, ticket, queue)
        if queued is not None:
            return queued
    if state == "failed":
        return Status(folder.name, "failed", note=error)
    return _interrupted(folder, running_in)


def _read_record(folder: Path) -> tuple[str | None, str]:
    """What the record says, and the error in it."""
    if not os.path.lexists(folder / "record.json"):
        return None, ""
    try:
        record = read_record_of_run(folder)
    except UnreadableRecord as error:
        return "failed", str(error)
    return "done" if record.status == "complete" else record.status, record.error or ""


def _running(folder: Path, running_in: Holder, ticket: Ticket | None) -> Status:
    job = f"job {ticket.job}, " if ticket is not None and ticket.job is not None else ""
    where = f"{job}process {running_in.pid} on {running_in.host}"
    progress = _read(read_progress, folder, PROGRESS)
    if progress is None:
        return Status(folder.name, "running", where)
    return Status(folder.name, "running", where, progress.step, progress.steps, progress.left_s, progress.phase)


def _read(read: Callable[[Path], T | None], folder: Path, name: str) -> T | None:
    """What a file of the run says; None where there is none, or with a line on stderr where it cannot be read."""
    try:
        return read(folder)
    except NotPlain as reason:
        print_message(f"skipped {folder / name}: {reason}")
        return None


def _queued(run_id: str, ticket: Ticket, queue: Queue) -> Status | None:
    """The status of a run that somebody is going to do; None where nobody is any more."""
    if ticket.job is None:
        where = f"{ticket.on}, by process {ticket.pid} on {ticket.host}"
        return Status(run_id, "queued", where) if _is_alive(ticket) else None
    jobs = queue()
    if jobs is None:
        return Status(run_id, "queued", f"job {ticket.job}", note="as far as known: no Slurm answers on this machine")
    job = jobs.get(ticket.job)
    if job is None:
        return None
    if job.state == "PENDING":
        return Status(run_id, "queued", f"job {ticket.job}", note=job.reason)
    return Status(run_id, "running", f"job {ticket.job} on {job.node}", note=job.state.lower())


def _is_alive(ticket: Ticket) -> bool:
    """Whether the ticket's process exists; a process on another host is believed to."""
    if ticket.host != socket.gethostname():
        return True
    try:
        os.kill(ticket.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _interrupted(folder: Path, running_in: Holder | None) -> Status:
    silent = "" if running_in is None else f"process {running_in.pid} on {running_in.host} is silent; "
    kept = (folder / "checkpoint.pt").exists() or (folder / "checkpoint-previous.pt").exists()
    how = "from its checkpoint" if kept else "from the start"
    return Status(folder.name, "interrupted", note=f"{silent}the same command goes on {how}")


def summarise(statuses: Sequence[Status]) -> str:
    """ "12 runs: 2 running, 6 queued, 4 done"."""
    counts = Counter(each.state for each in statuses)
    return f"{len(statuses)} runs: {', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])}"
