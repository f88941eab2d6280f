"""How processes started together become one run, and what ends it when one of them fails."""

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from maskbench.errors import Failure, Told, UsageError
from maskbench.runtime.cpu import cores as available
from maskbench.runtime.distributed import rank, world
from maskbench.runtime.launcher import Launch, launched

TIMEOUT = datetime.timedelta(minutes=30)  # of what the others wait for: a checkpoint written, data decoded
GATHERING = datetime.timedelta(minutes=10)  # until all processes are there
GONE = "another process of this run is gone; the same command goes on from the last checkpoint"
_store: Any = None  # where they leave notes, also when they answer no more


class Gone(Failure):
    """Another process of this run does not answer: it was killed, or its machine has failed."""


@contextmanager
def joined(device: str, launch: Launch | None = None) -> Iterator[None]:
    """In it, the processes that torchrun or srun started are one run. device: "auto", "cpu" or "cuda".

    UsageError where there are not as many GPUs; Failure where not all processes come. What only one process raises
    ends it, and with that the others: Gone.
    """
    launch = launch or launched()
    if launch.world == 1:
        yield
        return
    backend = _prepare(device, launch)
    _begin(backend, launch)
    try:
        yield
    except RuntimeError as error:
        if not unheard(error):
            raise
        blame = blamed(GONE, "")
        raise (Gone if blame.rank == rank() else Told)(blame.reason) from None
    finally:
        _end()


def _prepare(device: str, launch: Launch) -> str:
    """Settle the process on its GPU, or its share of the cores; the backend: messages of the host go by gloo."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        if device not in ("auto", "cuda"):
            raise UsageError(
                f"device {device!r} names one GPU, and there are {launch.world} processes; use --device cuda"
            )
        seen = torch.cuda.device_count()
        own = seen == 1 and "TORCHELASTIC_RUN_ID" not in os.environ  # as with srun --gpus-per-task=1
        if launch.local_rank >= seen and not own:
            raise UsageError(
                f"{launch.local_world} processes on a machine with {seen} GPUs; "
                f"start one for each GPU, or use --device cpu"
            )
        torch.cuda.set_device(0 if own else launch.local_rank)
        return "cpu:gloo,cuda:nccl"
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it to 1
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK", available() // launch.local_world))
        torch.set_num_threads(max(1, cores))
    return "gloo"


def _begin(backend: str, launch: Launch) -> None:
    global _store
    os.environ |= {"RANK": str(launch.rank), "WORLD_SIZE": str(launch.world)}
    os.environ |= {"MASTER_ADDR": launch.address, "MASTER_PORT": str(launch.port)}
    try:
        _store, number, size = next(iter(rendezvous("env://", timeout=GATHERING)))
        dist.init_process_group(backend, store=_store, rank=number, world_size=size, timeout=TIMEOUT)
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Failure(
            f"not all of {launch.world} processes met at {launch.address}:{launch.port} ({reason}); "
            f"start them with torchrun or srun, or set MASTER_ADDR and MASTER_PORT"
        ) from None


def _end() -> None:
    global _store
    _store = None
    dist.destroy_process_group()


class Blame(NamedTuple):
    """The first thing that went wrong in any process: which process, what, and where (a traceback)."""

    rank: int
    reason: str
    trace: str


def blamed(reason: str, trace: str) -> Blame:
    """This, unless another process was first: then ours only follows from that."""
    own = Blame(rank(), reason, trace)
    if world() == 1 or _store is None:
        return own
    try:
        return Blame(*json.loads(_store.compare_set("maskbench/blame", "", json.dumps(own))))
    except (RuntimeError, ValueError):  # the store goes with the process that holds it
        return own


def unheard(error: BaseException) -> bool:
    """Whether the error is that another process does not answer."""
    told = isinstance(error, RuntimeError) and not isinstance(error, Failure) and "gloo" in str(error)
    return world() > 1 and (told or isinstance(error, dist.DistError))
