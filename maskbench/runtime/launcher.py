"""Which of several processes started together this is, as torchrun and srun say. Imports nothing heavy."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

PORTS = range(20_000, 30_000)  # of which Slurm's job number chooses one, where nobody gives MASTER_PORT


@dataclass(frozen=True)
class Launch:
    """rank of `world` processes, local_rank of the `local_world` on this machine; where the first one listens."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: str = "127.0.0.1"
    port: int = 29_500

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """What torchrun's variables say, else srun's; a process by itself where there are none."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        world = int(environment["WORLD_SIZE"])
        return Launch(
            rank=int(environment["RANK"]),
            world=world,
            local_rank=int(environment.get("LOCAL_RANK", environment["RANK"])),
            local_world=int(environment.get("LOCAL_WORLD_SIZE", world)),
            address=environment.get("MASTER_ADDR", Launch.address),
            port=int(environment.get("MASTER_PORT", Launch.port)),
        )
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:  # in a batch script there is no step
        job = int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))
        nodes = _slurm(environment, "NODELIST")
        return Launch(
            rank=int(environment["SLURM_PROCID"]),
            world=int(environment["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environment.get("SLURM_LOCALID", "0")),
            local_world=int(re.match(r"\d*", _slurm(environment, "TASKS_PER_NODE"))[0] or 1),  # type: ignore[index]
            address=environment.get("MASTER_ADDR") or (first_node(nodes) if nodes else Launch.address),
            port=int(environment.get("MASTER_PORT", PORTS[job % len(PORTS)])),
        )
    return Launch()


def _slurm(environment: Mapping[str, str], name: str) -> str:
    """Of the step, which srun makes, or else of the job; "" where neither says."""
    names = [f"SLURM_{of}{name}" for of in ("STEP_", "JOB_", "")]
    return next((environment[each] for each in names if each in environment), "")


def first_node(nodes: str) -> str:
    """ "gpu[07-09,12],login1" -> "gpu07"."""
    match = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes
