"""What all executors have in common, and the loop that takes a set of runs through one of them."""

import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from maskbench.errors import UsageError
from maskbench.executors.progress_bars import ProgressBars
from maskbench.executors.worker import Result
from maskbench.record import RunRecord
from maskbench.runs.dead_run import record_death
from maskbench.runs.lease import is_free
from maskbench.runs.plan import Plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import forget_runs, read_if_done
from maskbench.runtime.interrupt import Interrupted

POLL_S = 1.0  # at most, between two looks at what has changed


class Executor(ABC):
    """Executes runs in other processes. Each run that is submitted ends with one result, unless `stop` comes before.

    Attributes:
        shares_terminal: Whether what workers print reaches this terminal by itself.
    """

    shares_terminal = False

    @abstractmethod
    def free_slots(self) -> int:
        """How many runs can be submitted now."""

    @abstractmethod
    def submit(self, plans: Sequence[Plan]) -> None:
        """Submit runs, no more than there are free slots."""

    @abstractmethod
    def collect(self, timeout_s: float) -> list[tuple[str, Result]]:
        """Wait for results: (run id, result) of each run that ended since the last call, [] after the timeout."""

    @abstractmethod
    def stop(self) -> None:
        """Have every run save, and wait for all of them. Failure where a second signal cuts that short."""

    @abstractmethod
    def close(self) -> None:
        """Release processes and connections. Called once, whatever happened before."""


def execute_runs(
    plans: Iterable[Plan], create_executor: Callable[[], Executor], force: bool, reporter: Reporter
) -> list[RunRecord]:
    """Execute every run once.

    A run that diverges or fails does not stop the others. Neither does a process that dies: its run is recorded as
    failed where it was on this machine, and the reporter says so.

    Args:
        plans: The runs.
        create_executor: Called once; what it returns is closed at the end.
        force: Delete what there is of these runs first.
        reporter: Gets lines of text, and shows progress bars if it is a terminal.

    Returns:
        The records of the runs that have one, in the order of `plans`.

    Raises:
        Interrupted: After a signal, once every run is saved. A second signal stops at once.
    """
    plan_of = {plan.run_id: plan for plan in plans}
    executor = create_executor()
    try:
        if force:
            forget_runs(plan_of.values())
        records = _Scheduler(executor, plan_of, reporter).run()
    finally:
        executor.close()
    return [records[run_id] for run_id in plan_of if run_id in records]


class _Scheduler:
    """Until it has ended, each run is waiting, submitted, or held by a process outside this set of runs."""

    def __init__(self, executor: Executor, plans: dict[str, Plan], reporter: Reporter) -> None:
        self.executor, self.plans, self.reporter = executor, plans, reporter
        self.waiting = deque(plans)
        self.submitted: set[str] = set()
        self.held: set[str] = set()
        self.records: dict[str, RunRecord] = {}

    def run(self) -> dict[str, RunRecord]:
        """Execute all runs; the records by run id."""
        try:
            with ProgressBars(
                Reporter() if self.executor.shares_terminal else self.reporter, len(self.plans)
            ) as progress_bars:
                while self.waiting or self.submitted or self.held:
                    self.step()
                    folders = {run_id: self.plans[run_id].folder for run_id in self.submitted}
                    progress_bars.update(len(self.records), folders)
        except (KeyboardInterrupt, Interrupted) as interruption:
            self.executor.stop()
            text = f"{len(self.records)} of {len(self.plans)} runs are done, those under way are saved"
            raise Interrupted(text, getattr(interruption, "signal", signal.SIGINT)) from None
        except UsageError:
            self.executor.stop()
            raise
        return self.records

    def step(self) -> None:
        """Submit what fits, wait a moment, take in the results."""
        self.submit_waiting()
        if not self.submitted:
            time.sleep(POLL_S)
        for run_id, result in self.executor.collect(POLL_S):
            self.submitted.discard(run_id)
            self.handle_result(run_id, result)
        self.requeue_released()

    def submit_waiting(self) -> None:
        """Submit as many waiting runs as there are free slots; the record of a finished run is only read."""
        slots, chosen = self.executor.free_slots(), list[Plan]()
        while self.waiting and len(chosen) < slots:
            plan = self.plans[self.waiting.popleft()]
            record = read_if_done(plan, self.reporter)
            if record is None:
                chosen.append(plan)
            else:
                self.records[plan.run_id] = record
        if chosen:
            self.executor.submit(chosen)
            self.submitted |= {plan.run_id for plan in chosen}

    def handle_result(self, run_id: str, result: Result) -> None:
        """Take in a result: a record, or why there is none. UsageError for what the user has to put right."""
        for line in () if self.executor.shares_terminal else result.messages:
            self.reporter.note(line)
        if result.record is not None:
            self.records[run_id] = result.record
        elif result.holder is not None:
            self.held.add(run_id)
            self.reporter.note(f"{run_id} is {result.holder}; later")
        elif result.usage_error is not None:
            raise UsageError(f"{run_id}: {result.usage_error}")
        elif result.interrupted is not None:
            self.waiting.append(run_id)
        else:
            self.reporter.note(f"{run_id}: {result.failure}")
            record = record_death(self.plans[run_id], result.failure or "") if result.died else None
            if record is not None:
                self.records[run_id] = record

    def requeue_released(self) -> None:
        """Let runs wait again whose holder is done or gone; a silent holder is noticed by looking again and again."""
        for run_id in [each for each in self.held if is_free(self.plans[each].folder)]:
            self.held.remove(run_id)
            self.waiting.append(run_id)
