"""One run in a worker process, on whichever machine that is."""

import os
import socket
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from maskbench.config.schema import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.record import RunRecord
from maskbench.runs.execution import Failed
from maskbench.runs.lease import Busy
from maskbench.runs.live_status import Published
from maskbench.runs.plan import plan
from maskbench.runs.reporter import Terminal
from maskbench.runs.run import attempted
from maskbench.runs.trackers import Tracked, trackers
from maskbench.runtime.interrupt import Interrupted
from maskbench.strategy import REGISTRY


@dataclass(frozen=True)
class Terms:
    """What holds for every run of a set. plugins: to load. checkpoint_every: see `Attempt`. track: names of trackers.
    threads: of a run; None: those that the process has. folder: where relative paths begin; None: where the process is.
    token: a file that shows that the worker sees the results folder; None: it is on the same machine."""

    plugins: Sequence[str] = ()
    checkpoint_every: float | None = None
    track: Sequence[str] = ()
    threads: int | None = None
    folder: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class Share:
    """What a run is given on a cluster: whole cores, which are its threads; GPUs, or a share of one; memory."""

    cpus: int = 1
    gpus: float = 0.0
    memory_gib: float | None = None

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"]
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        parts += [f"{self.memory_gib:g} GiB of memory"] if self.memory_gib else []
        return " and ".join(parts)


@dataclass(frozen=True)
class Result:
    """What a worker made of a run: its record, or else who is at it, or that it was saved because the worker was asked
    to stop, or what became of it, or what the user can put right. said: lines that were not shown to anybody yet."""

    record: RunRecord | None = None
    busy: str | None = None
    interrupted: str | None = None
    died: str | None = None
    refused: str | None = None
    said: Sequence[str] = ()


class Scribe(Terminal):
    """Keeps the lines that it writes to stderr, which on another machine is a log file."""

    def __init__(self) -> None:
        super().__init__(bar=False)
        self.said: list[str] = []

    def note(self, text: str) -> None:
        super().note(text)
        self.said.append(text)


def work(config: RunConfig, terms: Terms, wait: bool = False) -> Result:
    """One run, in this process. wait: for another process that is at it, which otherwise is the result."""
    scribe = Scribe()
    try:
        settle_in(terms)
        reporter = Published(Tracked(scribe, trackers(terms.track)))
        planned = plan(config)

        def waiting(holder: str) -> None:
            scribe.note(f"{planned.run_id} is {holder}; waiting")

        record = attempted(planned, reporter, terms.checkpoint_every, waiting if wait else None)
        return Result(record, said=scribe.said)
    except Failed as failure:
        scribe.note(str(failure))
        return Result(failure.record, said=scribe.said)
    except Busy as busy:
        return Result(busy=str(busy))
    except Interrupted as interruption:
        return Result(interrupted=str(interruption), said=scribe.said)
    except UsageError as error:
        return Result(refused=str(error))
    except Failure as failure:
        return Result(died=str(failure), said=scribe.said)
    except Exception as error:  # of ours, or of a plugin: the other runs go on
        traceback.print_exc()
        return Result(died=f"it could not begin: {type(error).__name__}: {error}", said=scribe.said)


def settle_in(terms: Terms) -> None:
    """Make this process one that does runs on these terms. UsageError where it does not share the results folder."""
    if terms.folder is not None:
        _enter(Path(terms.folder))
    if terms.token is not None and not Path(terms.token).exists():
        raise _not_shared(Path(terms.token).parent)
    if terms.threads is not None:
        torch.set_num_threads(terms.threads)
    for plugin in terms.plugins:
        REGISTRY.load(plugin)


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError:
        raise _not_shared(folder) from None


def _not_shared(folder: Path) -> UsageError:
    return UsageError(
        f"{socket.gethostname()} does not see {folder.absolute()} as it is here; results and working directory must "
        f"lie on a file system that all machines share: choose another --output"
    )
