"""How processes that were started together become one run, and how the failure of one ends it for all."""

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from maskbench.errors import AlreadyReported, Failure, UsageError
from maskbench.runtime.collectives import rank, world_size
from maskbench.runtime.cpu import core_count
from maskbench.runtime.launcher import Launch, detect_launch

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)  # others may wait for a checkpoint to be written, or data decoded
START_TIMEOUT = datetime.timedelta(minutes=10)  # until all processes are there
PEER_LOST = "another process of this run is gone; the same command goes on from the last checkpoint"
_store: Any = None  # the rendezvous store: a note left there is read also when collectives no longer work


class PeerLost(Failure):
    """Another process of this run does not answer: it was killed, or its machine has failed."""


@contextmanager
def join_process_group(device: str, launch: Launch | None = None) -> Iterator[None]:
    """Within the block, the processes that torchrun or srun started work on one run.

    Args:
        device: "auto", "cpu" or "cuda"; each process takes a GPU of its own.
        launch: Which process this is; None: as the environment says.

    Raises:
        UsageError: There are fewer GPUs than processes.
        Failure: Not all processes came within START_TIMEOUT.
        PeerLost: Another process stopped answering.
    """
    launch = launch or detect_launch()
    if launch.world_size == 1:
        yield
        return
    backend = _assign_hardware(device, launch)
    _initialize(backend, launch)
    try:
        yield
    except RuntimeError as error:
        if not is_peer_lost(error):
            raise
        failure = record_first_failure(PEER_LOST, "")
        raise (PeerLost if failure.rank == rank() else AlreadyReported)(failure.reason) from None
    finally:
        _destroy()


def _assign_hardware(device: str, launch: Launch) -> str:
    """Give this process its GPU, or its share of the cores.

    Returns:
        The backend of torch.distributed: gloo for tensors on the CPU, NCCL for those on a GPU.
    """
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        _assign_gpu(device, launch)
        return "cpu:gloo,cuda:nccl"
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it to 1
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", core_count() // launch.local_world_size))
        torch.set_num_threads(max(1, threads))
    return "gloo"


def _assign_gpu(device: str, launch: Launch) -> None:
    if device not in ("auto", "cuda"):
        raise UsageError(
            f"device {device!r} names one GPU, and there are {launch.world_size} processes; use --device cuda"
        )
    visible = torch.cuda.device_count()
    sees_only_its_own = visible == 1 and "TORCHELASTIC_RUN_ID" not in os.environ  # as with srun --gpus-per-task=1
    if launch.local_rank >= visible and not sees_only_its_own:
        raise UsageError(
            f"{launch.local_world_size} processes on a machine with {visible} GPUs; "
            f"start one for each GPU, or use --device cpu"
        )
    torch.cuda.set_device(0 if sees_only_its_own else launch.local_rank)


def _initialize(backend: str, launch: Launch) -> None:
    global _store
    os.environ |= {"RANK": str(launch.rank), "WORLD_SIZE": str(launch.world_size)}
    os.environ |= {"MASTER_ADDR": launch.address, "MASTER_PORT": str(launch.port)}
    try:
        _store, number, size = next(iter(rendezvous("env://", timeout=START_TIMEOUT)))
        dist.init_process_group(backend, store=_store, rank=number, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Failure(
            f"not all of {launch.world_size} processes met at {launch.address}:{launch.port} ({reason}); "
            f"start them with torchrun or srun, or set MASTER_ADDR and MASTER_PORT"
        ) from None


def _destroy() -> None:
    global _store
    _store = None
    dist.destroy_process_group()


class FirstFailure(NamedTuple):
    """The first failure in any process of the run; later ones follow from it.

    Attributes:
        rank: The process that failed.
        reason: One line.
        trace: The traceback, "" for an expected failure.
    """

    rank: int
    reason: str
    trace: str


def record_first_failure(reason: str, trace: str) -> FirstFailure:
    """Record a failure of this process, unless another process failed before; return the first one."""
    own = FirstFailure(rank(), reason, trace)
    if world_size() == 1 or _store is None:
        return own
    try:
        return FirstFailure(*json.loads(_store.compare_set("maskbench/blame", "", json.dumps(own))))
    except (RuntimeError, ValueError):  # the store ends with the process that holds it
        return own


def is_peer_lost(error: BaseException) -> bool:
    """Whether the error means that another process does not answer."""
    from_gloo = isinstance(error, RuntimeError) and not isinstance(error, Failure) and "gloo" in str(error)
    return world_size() > 1 and (from_gloo or isinstance(error, dist.DistError))
