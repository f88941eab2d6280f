"""Many runs through Slurm: arrays of jobs, by submitit. The queue holds them, so this process may end earlier."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from maskbench.config.settings import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.executors.base import Executor
from maskbench.executors.worker import Resources, Result, WorkerOptions, execute_in_worker
from maskbench.runs.artifacts import ensure_writable
from maskbench.runs.live_status import Ticket
from maskbench.runs.plan import Plan
from maskbench.runtime.hardware import with_device
from maskbench.runtime.interrupt import Interrupted
from maskbench.runtime.slurm_queue import JOB_NAME, jobs_in_queue

DEFAULT_TIME = "4:00:00"  # most partitions allow it; a run that needs longer saves, and its job is queued again
MAX_REQUEUES = 1_000  # of a run for which the time is too short
MAX_ARRAY_SIZE = 1_000  # jobs; a site's MaxArraySize is 1,001 unless it says otherwise
POLL_QUEUE_S = 5.0  # between two looks at the queue, which all users share
MAX_GRACE_S = 900.0  # at most, in which a job that has saved waits for its end
MISSING_S = 30.0  # out of the queue before a job without a result counts as dead: its files may arrive late
UNSUBMITTED = re.compile(r"\.?(submission_file_)?[0-9a-f]{32}\.(pkl|sh)")  # submitit's names of what sbatch is given


@dataclass(frozen=True)
class SbatchOptions:
    """Options of sbatch.

    Attributes:
        partition: None: the cluster's default.
        time: The limit of a job, in any form that sbatch takes; None: DEFAULT_TIME.
        extra: Any others, by name.
    """

    partition: str | None = None
    time: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


class SlurmExecutor(Executor):
    """A Slurm job for each run. A job whose time is up, or that is pre-empted, saves its run and is queued again.

    Args:
        sbatch: Options of every job.
        jobs: Jobs at a time; None: as many as Slurm starts.
        resources: For each run.
        options: For all workers.
        output: The results folder, which all nodes share; its folder `slurm` keeps jobs, logs and results.
    """

    def __init__(
        self, sbatch: SbatchOptions, jobs: int | None, resources: Resources, options: WorkerOptions, output: Path
    ) -> None:
        self.submitit = _import_submitit()
        self.resources, self.folder = resources, output.absolute() / "slurm"
        self.options = replace(options, threads=resources.cpus, working_directory=str(Path.cwd()))
        self.jobs = jobs
        self.running: dict[Any, str] = {}  # run id by job
        self.refused: list[tuple[str, Result]] = []
        self.polled_at = -POLL_QUEUE_S
        self.seen_at: dict[str, float] = {}  # when a job was last known to be in the queue, by job id
        ensure_writable(self.folder)
        self.executor = self.submitit.SlurmExecutor(self.folder, max_num_timeout=MAX_REQUEUES)
        memory = {} if resources.memory_gib is None else {"mem": f"{round(resources.memory_gib * 1024)}M"}
        self.executor.update_parameters(
            job_name=JOB_NAME,
            partition=sbatch.partition,
            time=parse_time_limit(sbatch.time or DEFAULT_TIME),
            cpus_per_task=resources.cpus,
            gpus_per_node=int(resources.gpus) or None,
            array_parallelism=jobs or MAX_ARRAY_SIZE,
            additional_parameters={"requeue": True, **memory, **sbatch.extra},
        )

    def free_slots(self) -> int:
        return 1_000_000  # the queue holds all runs, so that nobody has to stay to submit more

    def submit(self, plans: Sequence[Plan]) -> None:
        """Submit runs in arrays. A run that an earlier process submitted, and that is still in the queue, stays there.

        Where Slurm takes no more jobs, those that it has taken go on.
        """
        new = self._follow_submitted(plans)
        arrays = [new[first : first + MAX_ARRAY_SIZE] for first in range(0, len(new), MAX_ARRAY_SIZE)]
        if self.jobs is not None and arrays:
            self.executor.update_parameters(array_parallelism=max(1, self.jobs // len(arrays)))
        for array in arrays:
            try:
                self._submit_array(array)
            except UsageError as refusal:
                if not self.running:
                    raise
                failure = f"{refusal}; the same command tries it again"
                self.refused += [(plan.run_id, Result(failure=failure)) for plan in array]

    def _follow_submitted(self, plans: Sequence[Plan]) -> list[Plan]:
        """Follow the jobs of runs that are in the queue already; the other runs."""
        queue = jobs_in_queue()
        new = []
        for plan in plans:
            ticket = Ticket.read(plan.folder)
            if ticket is not None and ticket.job is not None and (queue is None or ticket.job in queue):
                self._follow(self.submitit.SlurmJob(self.folder, ticket.job), plan)
            else:
                new.append(plan)
        return new

    def _submit_array(self, plans: Sequence[Plan]) -> None:
        """UsageError where Slurm refuses the jobs."""
        configs = [with_device(plan.config, "cuda") if self.resources.gpus else plan.config for plan in plans]
        before = set(self.folder.iterdir())
        try:
            with redirect_stderr(io.StringIO()):  # where submitit repeats what sbatch says
                jobs = self.executor.map_array(Task(), configs, [self.options] * len(configs))
        except (self.submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            for path in set(self.folder.iterdir()) - before:
                if UNSUBMITTED.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()
            raise UsageError(f"Slurm refuses the jobs: {lines[0].removeprefix('sbatch: error: ')}") from None
        for plan, job in zip(plans, jobs, strict=True):
            self._follow(job, plan)
            with suppress(OSError):  # without a ticket the same command submits the run again, and that job waits
                Ticket("slurm", job=job.job_id).write(plan.folder)

    def _follow(self, job: Any, plan: Plan) -> None:
        self.running[job] = plan.run_id
        self.seen_at[job.job_id] = time.monotonic()

    def collect(self, timeout_s: float) -> list[tuple[str, Result]]:
        self._poll_queue()
        refused, self.refused = self.refused, []
        if refused:
            return refused
        missing_since = time.monotonic() - MISSING_S
        ended = [
            job for job in self.running if job.paths.result_pickle.exists() or self.seen_at[job.job_id] < missing_since
        ]
        if not ended:
            time.sleep(timeout_s)
        return [(self.running.pop(job), self._read_result(job)) for job in ended]

    def _poll_queue(self) -> None:
        """Note which jobs are in the queue, every POLL_QUEUE_S. Where Slurm does not answer, all count as seen."""
        if time.monotonic() - self.polled_at < POLL_QUEUE_S:
            return
        queue = jobs_in_queue()
        self.polled_at = time.monotonic()
        for job in self.seen_at if queue is None else queue.keys() & self.seen_at.keys():
            self.seen_at[job] = self.polled_at

    def _read_result(self, job: Any) -> Result:
        remedy = f"{job.paths.stderr} may say why; the same command tries the run again from its checkpoint"
        if not job.paths.result_pickle.exists():
            return Result(failure=f"job {job.job_id} is gone; {remedy}")
        try:
            return job.result()
        except self.submitit.core.utils.FailedJobError:
            return Result(failure=f"job {job.job_id} broke off; {remedy}")

    def stop(self) -> None:
        try:
            for job in self.running:
                job.cancel(check=False)  # SIGTERM, on which the run saves
            ids = {job.job_id for job in self.running}
            while (queue := jobs_in_queue()) is None or queue.keys() & ids:
                time.sleep(1)
        except (KeyboardInterrupt, Interrupted):
            raise Failure("left at once; `scancel --name maskbench` cancels what is still in the queue") from None

    def close(self) -> None:
        """Nothing to release."""


class Task:
    """What a job executes. submitit pickles it, and calls `checkpoint` before it queues the job again."""

    def __call__(self, config: RunConfig, options: WorkerOptions) -> Result:
        requeues = _install_signal_handlers()
        result = execute_in_worker(config, options, wait=True)
        if result.interrupted is None:
            return result
        if requeues:
            requeues[0]()
        _wait_for_end_of_grace()
        sys.exit(0)  # cancelled or pre-empted: Slurm decides what is next, and a result would say that the run is over

    def checkpoint(self, config: RunConfig, options: WorkerOptions) -> Any:
        """The same task again; the run's own checkpoint is in its folder."""
        return import_module("submitit").helpers.DelayedSubmission(self, config, options)


def _install_signal_handlers() -> list[Callable[[], None]]:
    """Interrupt the run at its next step on SIGTERM, and on the signal that Slurm sends before the time is up.

    Returns:
        An empty list. The second signal puts submitit's own handler into it, which queues the job again.
    """
    timeout_signal = import_module("submitit").JobEnvironment._usr_sig()
    requeue: Any = signal.getsignal(timeout_signal)
    requeues: list[Callable[[], None]] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted("stopped", number)

    def note_timeout(number: int, frame: FrameType | None) -> None:
        requeues.append(lambda: requeue(number, frame))
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(timeout_signal, note_timeout)
    return requeues


def _wait_for_end_of_grace() -> None:
    """Wait while Slurm counts the job as running, up to MAX_GRACE_S.

    In a partition with a GraceTime, a pre-empted job that ends within it has ended for good; one that stays to the end
    is queued again.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    job_id = import_module("submitit").JobEnvironment().job_id
    end = time.monotonic() + MAX_GRACE_S
    while time.monotonic() < end:
        job = (jobs_in_queue() or {}).get(job_id)
        if job is None or job.state != "RUNNING":
            return
        time.sleep(POLL_QUEUE_S)


def parse_time_limit(text: str) -> int:
    """Minutes, rounded up, of a time in one of sbatch's forms.

    Args:
        text: minutes, minutes:seconds, hours:minutes:seconds, or days-hours[:minutes[:seconds]].
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise UsageError(f"--time {text!r}: write it as sbatch takes it, e.g. 90 (minutes), 4:00:00 or 1-12:00:00")
    days, *numbers = (None if number is None else int(number) for number in match.groups())
    given = [number for number in numbers if number is not None]
    units = [3600, 60, 1] if days is not None or len(given) == 3 else [60, 1]
    seconds = (days or 0) * 86_400 + sum(number * unit for number, unit in zip(given, units, strict=False))
    return max(1, -(-seconds // 60))


def _import_submitit() -> Any:
    """UsageError where submitit or Slurm's commands are missing."""
    try:
        submitit = import_module("submitit")
    except ImportError:
        raise UsageError("--on slurm needs a package: pip install 'maskbench[slurm]'") from None
    missing = [command for command in ("sbatch", "srun", "squeue") if shutil.which(command) is None]
    if missing:
        raise UsageError(
            f"--on slurm needs {' and '.join(missing)} on the PATH: start it on a login node of the cluster"
        )
    return submitit
