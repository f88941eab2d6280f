"""Which of several processes this is, by what torchrun or srun put into the environment. Imports nothing heavy."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

PORTS = range(20_000, 30_000)  # the Slurm job's number chooses one of these where MASTER_PORT is not set


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that were started together.

    Attributes:
        rank: Its number, from 0.
        world_size: Number of processes.
        local_rank: Its number on this machine.
        local_world_size: Number of processes on this machine.
        address: Where rank 0 listens.
        port: Where rank 0 listens.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    address: str = "127.0.0.1"
    port: int = 29_500

    @property
    def is_rank0(self) -> bool:
        """Whether this process writes files and messages for all."""
        return self.rank == 0


def detect_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read torchrun's variables, else srun's; without either, this process is alone."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _from_torchrun(environment)
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:  # a batch script has no step
        return _from_srun(environment)
    return Launch()


def _from_torchrun(environment: Mapping[str, str]) -> Launch:
    world_size = int(environment["WORLD_SIZE"])
    return Launch(
        rank=int(environment["RANK"]),
        world_size=world_size,
        local_rank=int(environment.get("LOCAL_RANK", environment["RANK"])),
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", world_size)),
        address=environment.get("MASTER_ADDR", Launch.address),
        port=int(environment.get("MASTER_PORT", Launch.port)),
    )


def _from_srun(environment: Mapping[str, str]) -> Launch:
    job = int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))
    nodes = _slurm_variable(environment, "NODELIST")
    tasks = re.match(r"\d*", _slurm_variable(environment, "TASKS_PER_NODE"))  # "4(x2)" -> "4"
    return Launch(
        rank=int(environment["SLURM_PROCID"]),
        world_size=int(environment["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(environment.get("SLURM_LOCALID", "0")),
        local_world_size=int(tasks[0] or 1) if tasks else 1,
        address=environment.get("MASTER_ADDR") or (first_node(nodes) if nodes else Launch.address),
        port=int(environment.get("MASTER_PORT", PORTS[job % len(PORTS)])),
    )


def _slurm_variable(environment: Mapping[str, str], name: str) -> str:
    """Its value for the step that srun made, else for the job; "" where neither is set."""
    names = [f"SLURM_{scope}{name}" for scope in ("STEP_", "JOB_", "")]
    return next((environment[each] for each in names if each in environment), "")


def first_node(nodes: str) -> str:
    """The first of Slurm's list of nodes: "gpu[07-09,12],login1" -> "gpu07"."""
    match = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes
