"""A set of runs from the first to the last, wherever they are carried out: what is common to all executors."""

import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from maskbench.errors import UsageError
from maskbench.executors.progress_bars import Board
from maskbench.executors.worker import Result
from maskbench.record import RunRecord
from maskbench.runs.lease import free
from maskbench.runs.plan import Plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import done_already, forget
from maskbench.runtime.interrupt import Interrupted

LATER_S = 1.0  # at most, between two looks at what has changed


class Executor(ABC):
    """Where runs are carried out. A run that is started lands once, unless `stop` comes before."""

    loud = False  # whether what workers say reaches the terminal by itself

    @abstractmethod
    def room(self) -> int:
        """How many runs can be started now."""

    @abstractmethod
    def start(self, planned: Sequence[Plan]) -> None:
        """Begin these runs, no more than there is room for."""

    @abstractmethod
    def landed(self, timeout_s: float) -> list[tuple[str, Result]]:
        """The runs that ended since the last call, by their id; as soon as there is one, none after the timeout."""

    @abstractmethod
    def stop(self) -> None:
        """Ask every run to save, and return once all have. Failure where a second signal cuts that short."""

    @abstractmethod
    def close(self) -> None:
        """Let go of processes and connections. Called once, whatever happened before."""


def carry_out(
    planned: Iterable[Plan], opened: Callable[[], Executor], force: bool, reporter: Reporter
) -> list[RunRecord]:
    """Every run, each once; the records, in order. opened: makes what carries them out.

    A run that diverges or fails does not stop the others, and neither does a process that dies; its run has no record
    and is told. Interrupted once all have saved, when asked to stop; a second time stops at once.
    """
    known = {each.run_id: each for each in planned}
    executor = opened()
    try:
        if force:
            forget(known.values())
        records = _Driver(executor, known, reporter)()
    finally:
        executor.close()
    return [records[run_id] for run_id in known if run_id in records]


class _Driver:
    """Each run is waiting to be started, under way, or held by somebody else, until it is over."""

    def __init__(self, executor: Executor, planned: dict[str, Plan], reporter: Reporter) -> None:
        self.executor, self.planned, self.reporter = executor, planned, reporter
        self.waiting = deque(planned)
        self.under_way: set[str] = set()
        self.held: set[str] = set()
        self.records: dict[str, RunRecord] = {}

    def __call__(self) -> dict[str, RunRecord]:
        try:
            with Board(Reporter() if self.executor.loud else self.reporter, len(self.planned)) as board:
                while self.waiting or self.under_way or self.held:
                    self.step()
                    board.show(len(self.records), {run_id: self.planned[run_id].folder for run_id in self.under_way})
        except (KeyboardInterrupt, Interrupted) as asked:
            self.executor.stop()
            text = f"{len(self.records)} of {len(self.planned)} runs are done, those under way are saved"
            raise Interrupted(text, getattr(asked, "signal", signal.SIGINT)) from None
        except UsageError:
            self.executor.stop()
            raise
        return self.records

    def step(self) -> None:
        """Start what can be, wait a moment, take in what has landed."""
        self.start()
        if not self.under_way:
            time.sleep(LATER_S)
        for run_id, result in self.executor.landed(LATER_S):
            self.under_way.discard(run_id)
            self.settle(run_id, result)
        self.take_back()

    def start(self) -> None:
        """As many of those that wait as there is room for; what is done already is read."""
        room, chosen = self.executor.room(), list[Plan]()
        while self.waiting and len(chosen) < room:
            planned = self.planned[self.waiting.popleft()]
            record = done_already(planned, self.reporter)
            if record is None:
                chosen.append(planned)
            else:
                self.records[planned.run_id] = record
        if chosen:
            self.executor.start(chosen)
            self.under_way |= {planned.run_id for planned in chosen}

    def settle(self, run_id: str, result: Result) -> None:
        """What becomes of a run that has landed."""
        for line in () if self.executor.loud else result.said:
            self.reporter.note(line)
        if result.record is not None:
            self.records[run_id] = result.record
        elif result.busy is not None:
            self.held.add(run_id)
            self.reporter.note(f"{run_id} is {result.busy}; later")
        elif result.refused is not None:
            raise UsageError(f"{run_id}: {result.refused}")
        elif result.interrupted is not None:
            self.waiting.append(run_id)
        else:
            self.reporter.note(f"{run_id}: {result.died}")

    def take_back(self) -> None:
        """Runs whose holder is done or gone wait again. This process watches, for silence is measured by watching."""
        for run_id in [each for each in self.held if free(self.planned[each].folder)]:
            self.held.remove(run_id)
            self.waiting.append(run_id)
