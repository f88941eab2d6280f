"""One run in a worker process, on this machine or another."""

import os
import socket
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from maskbench.config.settings import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.record import RunRecord
from maskbench.runs.execution import Failed
from maskbench.runs.lease import Busy
from maskbench.runs.live_status import StatusReporter
from maskbench.runs.plan import make_plan
from maskbench.runs.plugin_sources import changed_plugins, plugin_sources
from maskbench.runs.reporter import Terminal
from maskbench.runs.run import run_or_read
from maskbench.runs.trackers import TrackingReporter, create_trackers
from maskbench.runtime.interrupt import Interrupted
from maskbench.runtime.plugin_exits import exits_as_errors
from maskbench.strategy import REGISTRY


@dataclass(frozen=True)
class WorkerOptions:
    """Options of all workers of a set of runs.

    Attributes:
        plugins: To load.
        checkpoint_every: Seconds between checkpoints; None: the default.
        track: Names of trackers.
        threads: Of a run; None: as many as the process has.
        working_directory: Where relative paths begin; None: where the process is.
        plugin_sources: The digests of the plugins' code in the process that submits the runs.
        shared_file: A file in the results folder, by which a worker on another machine checks that it sees the same
            folder; None: no check.
    """

    plugins: Sequence[str] = ()
    checkpoint_every: float | None = None
    track: Sequence[str] = ()
    threads: int | None = None
    working_directory: str | None = None
    shared_file: str | None = None
    plugin_sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What a run gets on a cluster.

    Attributes:
        cpus: Whole cores, which are its threads.
        gpus: GPUs, or a share of one.
        memory_gib: GiB of memory; None: the cluster's default.
    """

    cpus: int = 1
    gpus: float = 0.0
    memory_gib: float | None = None

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)

    def __str__(self) -> str:
        amounts = [f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"]
        amounts += [f"{self.gpus:g} GPU"] if self.gpus else []
        amounts += [f"{self.memory_gib:g} GiB of memory"] if self.memory_gib else []
        return " and ".join(amounts)


@dataclass(frozen=True)
class Result:
    """What became of a run in a worker; one of the first five is set.

    Attributes:
        record: Its record.
        holder: The process that holds the run, so that this one did not begin it.
        interrupted: The worker had to stop, and the run is saved.
        failure: Why there is no record.
        usage_error: What the user has to put right.
        died: With `failure`: the run's process died on this machine, and nobody has recorded it.
        messages: Lines that the user may not have seen yet.
    """

    record: RunRecord | None = None
    holder: str | None = None
    interrupted: str | None = None
    failure: str | None = None
    usage_error: str | None = None
    died: bool = False
    messages: Sequence[str] = ()


class RecordingTerminal(Terminal):
    """Keeps the lines that it writes to stderr, which on another machine is a log file."""

    def __init__(self) -> None:
        super().__init__(bar=False)
        self.messages: list[str] = []

    def note(self, text: str) -> None:
        super().note(text)
        self.messages.append(text)


def execute_in_worker(config: RunConfig, options: WorkerOptions, wait: bool = False) -> Result:
    """Execute one run in this process. wait: for another process that holds the run, instead of returning its name."""
    terminal = RecordingTerminal()
    try:
        with exits_as_errors():
            return Result(_execute(config, options, wait, terminal), messages=terminal.messages)
    except Failed as failed:
        terminal.note(str(failed))
        return Result(failed.record, messages=terminal.messages)
    except Busy as busy:
        return Result(holder=str(busy))
    except Interrupted as interruption:
        return Result(interrupted=str(interruption), messages=terminal.messages)
    except UsageError as error:
        return Result(usage_error=str(error))
    except Failure as failure:
        return Result(failure=str(failure), messages=terminal.messages)
    except Exception as error:  # of maskbench, or of a plugin: the other runs go on
        traceback.print_exc()
        return Result(failure=f"it could not begin: {type(error).__name__}: {error}", messages=terminal.messages)


def _execute(config: RunConfig, options: WorkerOptions, wait: bool, terminal: RecordingTerminal) -> RunRecord:
    set_up_worker(options)
    reporter = StatusReporter(TrackingReporter(terminal, create_trackers(options.track)))
    plan = make_plan(config)
    changed = changed_plugins(plugin_sources(plan), options.plugin_sources)
    if changed:
        raise UsageError(f"the code of {', '.join(changed)} has changed since the command began; start it again")

    def note_waiting(holder: str) -> None:
        terminal.note(f"{plan.run_id} is {holder}; waiting")

    return run_or_read(plan, reporter, options.checkpoint_every, note_waiting if wait else None)


def set_up_worker(options: WorkerOptions) -> None:
    """Prepare this process for runs with these options. UsageError where it does not see the results folder."""
    if options.working_directory is not None:
        _change_directory(Path(options.working_directory))
    if options.shared_file is not None and not Path(options.shared_file).exists():
        raise _not_shared_error(Path(options.shared_file).parent)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for plugin in options.plugins:
        REGISTRY.load(plugin)


def _change_directory(folder: Path) -> None:
    try:
        os.chdir(folder)
    except OSError:
        raise _not_shared_error(folder) from None


def _not_shared_error(folder: Path) -> UsageError:
    return UsageError(
        f"{socket.gethostname()} does not see {folder.absolute()} as it is here; results and working directory must "
        f"lie on a file system that all machines share: choose another --output"
    )
