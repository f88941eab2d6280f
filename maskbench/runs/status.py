"""Which runs of a results folder are queued, running, interrupted, done or failed: from their files alone, so that any
machine that sees the folder can say it."""

import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from maskbench.errors import UsageError
from maskbench.record import Unreadable, read_record
from maskbench.runs.lease import Holder, holder
from maskbench.runs.live_status import PROGRESS, Ticket
from maskbench.runtime.slurm_queue import Job, jobs_in_queue

State = Literal["running", "queued", "interrupted", "failed", "done"]
STATES: tuple[State, ...] = ("running", "queued", "interrupted", "failed", "done")
Queue = Callable[[], dict[str, Job] | None]


@dataclass(frozen=True)
class Status:
    """How a run stands. where: its process and host, or its job. step of steps: how far its training is; None: unknown.
    left_s: until the end of the training, at the pace so far. note: what else there is to say."""

    run_id: str
    state: State
    where: str = ""
    step: int | None = None
    steps: int | None = None
    left_s: float | None = None
    note: str = ""


def statuses(folder: Path) -> list[Status]:
    """Of every run under a results folder, trials first. UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"no results folder {folder}; give the --output of a run, e.g. results/quick")
    queue = cache(jobs_in_queue)  # asked once, and only if a run has a place in it
    runs = [path for place in (folder / "trials", folder) for path in sorted(place.glob("runs/*")) if path.is_dir()]
    return [status(path, queue) for path in runs]


def status(folder: Path, queue: Queue = jobs_in_queue) -> Status:
    """Of the run in `folder`."""
    state, error = _recorded(folder)
    if state == "done":
        return Status(folder.name, "done")
    if state == "diverged":
        return Status(folder.name, "failed", note=error)
    at_it, ticket = holder(folder), Ticket.read(folder)
    if at_it is not None and at_it.alive:
        return _running(folder, at_it, ticket)
    if ticket is not None:
        promised = _promised(folder.name, ticket, queue)
        if promised is not None:
            return promised
    if state == "failed":
        return Status(folder.name, "failed", note=error)
    return _interrupted(folder, at_it)


def _recorded(folder: Path) -> tuple[str | None, str]:
    """What the record says, and the error in it."""
    if not (folder / "record.json").exists():
        return None, ""
    try:
        record = read_record(folder / "record.json")
    except Unreadable as error:
        return "failed", str(error)
    return "done" if record.status == "complete" else record.status, record.error or ""


def _running(folder: Path, at_it: Holder, ticket: Ticket | None) -> Status:
    job = f"job {ticket.job}, " if ticket is not None and ticket.job is not None else ""
    where = f"{job}process {at_it.pid} on {at_it.host}"
    about = _progress(folder)
    step, steps = about.get("step"), about.get("steps")
    return Status(folder.name, "running", where, step, steps, about.get("left_s"), about.get("phase", ""))


def _progress(folder: Path) -> dict[str, Any]:
    """What the run last published."""
    with suppress(OSError, ValueError):
        return json.loads((folder / PROGRESS).read_text())
    return {}


def _promised(run_id: str, ticket: Ticket, queue: Queue) -> Status | None:
    """A run that somebody is going to do; None where nobody is any more."""
    if ticket.job is None:
        where = f"{ticket.on}, by process {ticket.pid} on {ticket.host}"
        return Status(run_id, "queued", where) if _alive(ticket) else None
    jobs = queue()
    if jobs is None:
        return Status(run_id, "queued", f"job {ticket.job}", note="as far as known: no Slurm answers on this machine")
    job = jobs.get(ticket.job)
    if job is None:
        return None
    if job.state == "PENDING":
        return Status(run_id, "queued", f"job {ticket.job}", note=job.reason)
    return Status(run_id, "running", f"job {ticket.job} on {job.node}", note=job.state.lower())


def _alive(ticket: Ticket) -> bool:
    """Whether the process that gave the ticket is there; one on another host is taken at its word."""
    if ticket.host != socket.gethostname():
        return True
    try:
        os.kill(ticket.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _interrupted(folder: Path, at_it: Holder | None) -> Status:
    silent = "" if at_it is None else f"process {at_it.pid} on {at_it.host} is silent; "
    kept = (folder / "checkpoint.pt").exists() or (folder / "checkpoint-previous.pt").exists()
    how = "from its checkpoint" if kept else "from the start"
    return Status(folder.name, "interrupted", note=f"{silent}the same command goes on {how}")


def summary(found: Sequence[Status]) -> str:
    """ "12 runs: 2 running, 6 queued, 4 done"."""
    counts = Counter(each.state for each in found)
    return f"{len(found)} runs: {', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])}"
