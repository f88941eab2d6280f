"""Runs through a real Slurm: an array, a job that is requeued, a driver that is killed, a job whose time is up."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskbench.runs.live_status import Ticket
from tests.helpers.cluster_suites import run_reference, wait_until, write_suite
from tests.helpers.command_line import SMALL, run_command, start_command
from tests.helpers.run_results import (
    assert_nearly_equal,
    comparable_results,
    count_interruptions,
    left_over_files,
    read_only_record,
)
from tests.helpers.slurm_cluster import install_slurm, slurm_cluster
from tests.helpers.torchrun import torchrun_command

pytestmark = pytest.mark.integration
pytest.importorskip("submitit")

LONG = ["--epochs", "100"]  # 200 steps with a checkpoint after each, so that a kill falls into them


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    reason = install_slurm()
    if reason is not None:
        pytest.skip(reason)
    with slurm_cluster() as variables:
        yield variables


def read_statuses(folder: Path, slurm: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What `maskbench status` prints, by run."""
    command = [sys.executable, "-m", "maskbench", "status", "results/quick", "--json"]
    done = subprocess.run(command, cwd=folder, env=slurm, capture_output=True, text=True, check=False)
    return {each["run_id"]: each for each in json.loads(done.stdout or "[]")}


def states(folder: Path, slurm: dict[str, str]) -> set[str]:
    return {each["state"] for each in read_statuses(folder, slurm).values()}


def wait_for_saved_run(folder: Path) -> tuple[str, str]:
    """A run that is training and has saved, and its job; once there is one."""

    def found() -> list[str]:
        paths = folder.glob("results/quick/runs/*/running.lock")
        return [path.parent.name for path in paths if (path.parent / "checkpoint-previous.pt").exists()]

    wait_until(found, 240, "nothing ran")
    run_id = found()[0]
    ticket = Ticket.read(folder / "results/quick/runs" / run_id)
    assert ticket is not None and ticket.job is not None
    return run_id, ticket.job


def slurm_output(slurm: dict[str, str], *command: str) -> str:
    """What one of Slurm's commands prints."""
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout


def test_six_runs_one_requeued_and_resumed_though_the_driver_is_killed(tmp_path: Path, slurm: dict[str, str]) -> None:
    arguments = write_suite(tmp_path, ["random", "gmml"], "0-1", *LONG)
    expected = run_reference(tmp_path / "alone", arguments)
    arguments += ["--on", "slurm", "--partition", "main", "--time", "30"]
    with start_command(tmp_path, *arguments, env=slurm) as driver:
        try:
            requeued, job = wait_for_saved_run(tmp_path)
            lease = tmp_path / "results/quick/runs" / requeued / "running.lock"
            term = ["scancel", "--signal=TERM", job]  # as Slurm does where a partition gives some GraceTime
            subprocess.run(term, env=slurm, check=False)  # 229 where others of the array wait, although it was sent
            wait_until(lambda: not lease.exists(), 60, "it did not save and let go")
            # not at once: between two jobs of the array none may have begun to train
            wait_until(lambda: {"running", "queued"} <= states(tmp_path, slurm), 60, "no run goes on while others wait")
        finally:
            os.kill(driver.pid, signal.SIGKILL)
    slurm_output(slurm, "scontrol", "requeue", job)
    before = len(slurm_output(slurm, "squeue", "--noheader", "--array").splitlines())
    code, said = run_command(tmp_path, *arguments, env=slurm, timeout=420)
    assert code == 0 and "Traceback" not in said, said
    jobs = {path.name.split("_")[0] for path in tmp_path.glob("results/quick/slurm/*_submitted.pkl")}
    assert before and len(jobs) == 1, "the second command followed the jobs of the first"
    assert (
        count_interruptions(tmp_path) == {run_id: int(run_id == requeued) for run_id in expected} and len(expected) == 6
    )
    assert comparable_results(tmp_path) == expected
    assert states(tmp_path, slurm) == {"done"}
    assert not left_over_files(tmp_path) and not list(tmp_path.glob("**/ticket.json"))


def test_a_job_whose_time_is_up_saves_and_is_queued_again(tmp_path: Path, slurm: dict[str, str]) -> None:
    arguments = [*write_suite(tmp_path, ["random"], "0", "--epochs", "200"), "--on", "slurm", "--time", "30"]
    with start_command(tmp_path, *arguments, env=slurm) as driver:
        try:
            run_id, job = wait_for_saved_run(tmp_path)
            slurm_output(slurm, "scancel", "--signal=USR2", job)  # as Slurm does some time before the end
            _, said = driver.communicate(timeout=300)
        finally:
            driver.kill()
    assert driver.returncode == 0 and "goes on from step" in said, said
    assert count_interruptions(tmp_path)[run_id] == 1


def test_stopped_the_jobs_save_and_leave_the_queue(tmp_path: Path, slurm: dict[str, str]) -> None:
    arguments = [*write_suite(tmp_path, ["random"], "0", "--epochs", "2000"), "--on", "slurm", "--jobs", "2"]
    with start_command(tmp_path, *arguments, env=slurm) as driver:
        try:
            run_id, _ = wait_for_saved_run(tmp_path)
            os.kill(driver.pid, signal.SIGINT)
            _, said = driver.communicate(timeout=90)
        finally:
            driver.kill()
    assert driver.returncode == 130 and "those under way are saved; to go on: maskbench run" in said, said
    assert not slurm_output(slurm, "squeue", "--noheader").strip()
    assert read_statuses(tmp_path, slurm)[run_id]["state"] == "interrupted"
    assert not list(tmp_path.glob("**/running.lock")), "it let go, and was not killed"


def test_srun_starts_the_processes_of_one_run(tmp_path: Path, slurm: dict[str, str]) -> None:
    """As torchrun does: to the numbers of one process, which writes and speaks."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder, launcher in ((alone, []), (shared, ["srun", "--ntasks=2", "--cpus-per-task=1", "--label"])):
        folder.mkdir()
        done = subprocess.run(
            [*launcher, *torchrun_command(1, "--epochs", "10")],
            cwd=folder,
            env=slurm,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
    assert "0: " in done.stderr and "1: " not in done.stdout + done.stderr, "the second is silent"
    assert_nearly_equal(read_only_record(shared), read_only_record(alone))
    assert (read_only_record(alone).environment["processes"], read_only_record(shared).environment["processes"]) == (
        1,
        2,
    )


def test_what_slurm_refuses_is_one_line(tmp_path: Path, slurm: dict[str, str]) -> None:
    command = ["run", "--strategy", "random", "--probes", "knn", *SMALL, "--on", "slurm", "--partition", "nowhere"]
    code, said = run_command(tmp_path, *command, env=slurm, timeout=120)
    assert code == 2 and "maskbench: Slurm refuses the jobs: invalid partition specified: nowhere" in said, said
    assert "Traceback" not in said and "sbatch: error" not in said
    assert not [path for path in tmp_path.glob("results/quick/slurm/**/*") if path.is_file()]


def test_without_slurm_it_says_where_to_go(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    code, said = run_command(tmp_path, "run", *SMALL, "--on", "slurm", env=environment, timeout=120)
    assert code == 2 and "needs sbatch and srun and squeue on the PATH" in said and "Traceback" not in said, said
