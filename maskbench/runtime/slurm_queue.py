"""Slurm's queue, as far as it holds our jobs."""

import shutil
import subprocess
from typing import NamedTuple

NAME = "maskbench"  # of our jobs
ANSWER_S = 30.0


class Job(NamedTuple):
    """state: PENDING, RUNNING, COMPLETING, ... reason: why it waits, in Slurm's word. node: where it runs."""

    state: str
    reason: str
    node: str


def jobs_in_queue() -> dict[str, Job] | None:
    """Our jobs that wait or run, by id such as 17 or, of an array, 17_3; None where nobody can be asked, because this
    machine has no Slurm or its controller does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", f"--name={NAME}", "--format=%i|%T|%r|%N"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split("|") for line in answer.stdout.splitlines()]
    return {job: Job(state, reason, node) for job, state, reason, node in rows}
