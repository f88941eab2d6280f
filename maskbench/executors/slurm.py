"""Many runs through Slurm: arrays of jobs by submitit. The queue holds them, so the process that asked may die."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from maskbench.config.schema import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.executors.base import Executor
from maskbench.executors.worker import Result, Share, Terms, work
from maskbench.runs.artifacts import writable
from maskbench.runs.live_status import Ticket
from maskbench.runs.plan import Plan
from maskbench.runtime.hardware import on_device
from maskbench.runtime.interrupt import Interrupted
from maskbench.runtime.slurm_queue import NAME, jobs_in_queue

TIME = "4:00:00"  # which most partitions allow; a run that needs longer saves and goes on with its next place in turn
REQUEUES = 1_000  # of a run for which the time is too short
ARRAY = 1_000  # jobs; a site's MaxArraySize is 1,001 unless it says otherwise
LOOK_EVERY_S = 5.0  # at the queue, which is everybody's
GRACE_S = 900.0  # at most, in which a job that has saved waits for its end
UNSUBMITTED = re.compile(r"\.?(submission_file_)?[0-9a-f]{32}\.(pkl|sh)")  # submitit's names of what sbatch is given
GONE_S = 30.0  # out of the queue before a job without a result is taken for dead: files may arrive later


class Slurm(Executor):
    """A job for each run. It saves when its time is up or it has to make way, and is queued again.

    partition, time: as sbatch takes them. options: any others of sbatch, by name. jobs: at a time; None: as many as
    Slurm starts. output: the results folder, which all nodes share; its folder slurm keeps jobs, logs and results.
    """

    def __init__(
        self, partition: str | None, time: str | None, options: Mapping[str, str], jobs: int | None, share: Share,
        terms: Terms, output: Path,
    ) -> None:  # fmt: skip
        self.submitit = _package()
        self.share, self.folder = share, output.absolute() / "slurm"
        self.terms = replace(terms, threads=share.cpus, folder=str(Path.cwd()))
        self.jobs, self.running = jobs, dict[Any, str]()
        self.refused: list[tuple[str, Result]] = []
        self.looked, self.seen = -LOOK_EVERY_S, dict[str, float]()
        memory = {} if share.memory_gib is None else {"mem": f"{round(share.memory_gib * 1024)}M"}
        writable(self.folder)
        self.executor = self.submitit.SlurmExecutor(self.folder, max_num_timeout=REQUEUES)
        self.executor.update_parameters(
            job_name=NAME, partition=partition, time=minutes(time or TIME), cpus_per_task=share.cpus,
            gpus_per_node=int(share.gpus) or None, array_parallelism=jobs or ARRAY,
            additional_parameters={"requeue": True, **memory, **options},
        )  # fmt: skip

    def room(self) -> int:
        return 1_000_000  # the queue holds them all, so that nobody has to be there to put in more

    def start(self, planned: Sequence[Plan]) -> None:
        """Runs that are in the queue already, because an earlier process put them there, are left in their place. Where
        Slurm takes no more, those that it has taken go on."""
        queue = jobs_in_queue()
        new = []
        for each in planned:
            ticket = Ticket.read(each.folder)
            if ticket is not None and ticket.job is not None and (queue is None or ticket.job in queue):
                self._follow(self.submitit.SlurmJob(self.folder, ticket.job), each)
            else:
                new.append(each)
        arrays = [new[first : first + ARRAY] for first in range(0, len(new), ARRAY)]
        if self.jobs is not None and arrays:
            self.executor.update_parameters(array_parallelism=max(1, self.jobs // len(arrays)))
        for array in arrays:
            try:
                self._submit(array)
            except UsageError as refusal:
                if not self.running:
                    raise
                self.refused += [(each.run_id, Result(died=f"{refusal}; the same command tries it again"))
                                 for each in array]  # fmt: skip

    def _submit(self, planned: Sequence[Plan]) -> None:
        configs = [on_device(each.config, "cuda") if self.share.gpus else each.config for each in planned]
        before = set(self.folder.iterdir())
        try:
            with redirect_stderr(io.StringIO()):  # where submitit repeats what sbatch says
                jobs = self.executor.map_array(Task(), configs, [self.terms] * len(configs))
        except (self.submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            for path in set(self.folder.iterdir()) - before:
                if UNSUBMITTED.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()
            raise UsageError(f"Slurm refuses the jobs: {lines[0].removeprefix('sbatch: error: ')}") from None
        for each, job in zip(planned, jobs, strict=True):
            self._follow(job, each)
            with suppress(OSError):  # without it the same command submits the run again, which waits for this one
                Ticket("slurm", job=job.job_id).write(each.folder)

    def _follow(self, job: Any, planned: Plan) -> None:
        self.running[job] = planned.run_id
        self.seen[job.job_id] = time.monotonic()

    def landed(self, timeout_s: float) -> list[tuple[str, Result]]:
        self._look()
        refused, self.refused = self.refused, []
        if refused:
            return refused
        gone = time.monotonic() - GONE_S
        over = [job for job in self.running if job.paths.result_pickle.exists() or self.seen[job.job_id] < gone]
        if not over:
            time.sleep(timeout_s)
        return [(self.running.pop(job), self._result(job)) for job in over]

    def _look(self) -> None:
        """Which jobs the queue has, every few seconds; those of which nobody can say anything count as there."""
        if time.monotonic() - self.looked < LOOK_EVERY_S:
            return
        queue = jobs_in_queue()
        self.looked = time.monotonic()
        for job in self.seen if queue is None else queue.keys() & self.seen.keys():
            self.seen[job] = self.looked

    def _result(self, job: Any) -> Result:
        if not job.paths.result_pickle.exists():
            return Result(died=f"job {job.job_id} is gone; {_where(job)}")
        try:
            return job.result()
        except self.submitit.core.utils.FailedJobError:
            return Result(died=f"job {job.job_id} broke off; {_where(job)}")

    def stop(self) -> None:
        try:
            for job in self.running:
                job.cancel(check=False)  # SIGTERM, on which the run saves
            ours = {job.job_id for job in self.running}
            while (queue := jobs_in_queue()) is None or queue.keys() & ours:
                time.sleep(1)
        except (KeyboardInterrupt, Interrupted):
            raise Failure("left at once; `scancel --name maskbench` cancels what is still in the queue") from None

    def close(self) -> None:
        """Nothing is held here."""


class Task:
    """What a job does, by submitit, which gives it to itself again where it is queued again."""

    def __call__(self, config: RunConfig, terms: Terms) -> Result:
        time_is_up = _save_when_told()
        result = work(config, terms, wait=True)
        if result.interrupted is None:
            return result
        if time_is_up:
            time_is_up[0]()  # into the queue again
        _until_let_go()
        sys.exit(0)  # cancelled or pre-empted: Slurm knows what is next, and a result would say that the run is over

    def checkpoint(self, config: RunConfig, terms: Terms) -> Any:
        """The same again; what the run has done is in its folder."""
        return import_module("submitit").helpers.DelayedSubmission(self, config, terms)


def _save_when_told() -> list[Any]:
    """From now on SIGTERM interrupts the run at its next step, and so does the signal that submitit has Slurm send
    before the time is up, after which the list that this returns holds submitit's own answer to it."""
    number = import_module("submitit").JobEnvironment._usr_sig()
    requeue: Any = signal.getsignal(number)
    told: list[Any] = []

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted("stopped", number)

    def late(number: int, frame: FrameType | None) -> None:
        told.append(lambda: requeue(number, frame))
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(number, late)
    return told


def _until_let_go() -> None:
    """Wait while Slurm counts the job as running: where a partition gives jobs that make way some GraceTime, one that
    ends in it has ended for good, and one that is there to its end is queued again."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    job = import_module("submitit").JobEnvironment().job_id
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end:
        known = (jobs_in_queue() or {}).get(job)
        if known is None or known.state != "RUNNING":
            return
        time.sleep(LOOK_EVERY_S)


def minutes(text: str) -> int:
    """sbatch's forms of a time: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise UsageError(f"--time {text!r}: write it as sbatch takes it, e.g. 90 (minutes), 4:00:00 or 1-12:00:00")
    days, *parts = (None if part is None else int(part) for part in match.groups())
    given = [part for part in parts if part is not None]
    units = [3600, 60, 1] if days is not None or len(given) == 3 else [60, 1]
    seconds = (days or 0) * 86_400 + sum(part * unit for part, unit in zip(given, units, strict=False))
    return max(1, -(-seconds // 60))


def _where(job: Any) -> str:
    """Where to look, and what next."""
    return f"{job.paths.stderr} may say why; the same command tries the run again from its checkpoint"


def _package() -> Any:
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
