"""The jobs of maskbench in Slurm's queue."""

import shutil
import subprocess
from typing import NamedTuple

JOB_NAME = "maskbench"  # of every job that maskbench submits
SQUEUE_TIMEOUT_S = 30.0


class Job(NamedTuple):
    """A job in the queue.

    Attributes:
        state: PENDING, RUNNING, COMPLETING, ...
        reason: Why it waits, as Slurm says it.
        node: Where it runs.
    """

    state: str
    reason: str
    node: str


def jobs_in_queue() -> dict[str, Job] | None:
    """The jobs that wait or run, by id: 17, or 17_3 in an array. None where Slurm is missing or does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", f"--name={JOB_NAME}", "--format=%i|%T|%r|%N"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split("|") for line in answer.stdout.splitlines()]
    return {job: Job(state, reason, node) for job, state, reason, node in rows}
