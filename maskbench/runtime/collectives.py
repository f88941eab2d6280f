"""One run on several processes: collectives, and work that one process does for all.

With one process every function returns its argument or calls its function directly, so callers need no second branch.
The loss of a batch is the mean of the losses of its micro-batches (maskbench.training.microbatches): each process
computes the gradient of its own, and DistributedDataParallel averages them.
"""

import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from maskbench.errors import AlreadyReported, Failure
from maskbench.runtime.plugin_exits import exits_as_errors

T = TypeVar("T")
_in_single_process: ContextVar[bool] = ContextVar("in_single_process", default=False)


# The group of processes.


def world_size() -> int:
    """Number of processes that work together at this point: 1 inside `single_process`, else `process_count`."""
    return 1 if _in_single_process.get() else process_count()


def process_count() -> int:
    """Number of processes of the run, also inside `single_process`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process in its group, from 0; 0 inside `single_process`."""
    return 0 if world_size() == 1 else dist.get_rank()


def is_rank0() -> bool:
    """Whether this process writes files and messages for its group."""
    return rank() == 0


@contextmanager
def single_process() -> Iterator[None]:
    """Within the block this process is a group of its own: `world_size` is 1, and no collective waits for others.

    It holds for the thread that enters it, not for threads that this one starts.
    """
    token = _in_single_process.set(True)
    try:
        yield
    finally:
        _in_single_process.reset(token)


# Numbers that depend on the whole batch.


class _AllReduceSum(torch.autograd.Function):
    """The sum of values, and of their gradients. torch has two such functions: one is deprecated, one internal."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        summed: Tensor = _AllReduceSum.apply(gradient)
        return summed


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum a tensor over processes.

    Args:
        values: Of the same shape in every process.

    Returns:
        The sum, the same in every process; differentiable: gradients are summed over processes, too.
    """
    if world_size() == 1:
        return values
    summed: Tensor = _AllReduceSum.apply(values)
    return summed


def all_reduce_mean(values: Tensor) -> Tensor:
    """Average a tensor over processes; differentiable.

    Every process has a micro-batch of the same size, so the mean of their means is the mean over the batch.
    """
    return values if world_size() == 1 else all_reduce_sum(values) / world_size()


def all_gather(values: Tensor) -> Tensor:
    """Concatenate the rows of all processes.

    Args:
        values: (B, ...), of the same shape in every process.

    Returns:
        (world_size * B, ...), in the order of the batch; differentiable.
    """
    if world_size() == 1:
        return values
    everywhere = [torch.zeros_like(values) for _ in range(world_size())]
    everywhere[rank()] = values
    return all_reduce_sum(torch.cat(everywhere))


def all_reduce_weighted_mean(means: Sequence[Tensor], counts: Sequence[int], default: Tensor) -> Tensor:
    """Average rows of which only the means over groups are known, over all groups of all processes.

    Args:
        means: A (D,) mean for each group of this process.
        counts: The number of rows in each group; 0 allowed.
        default: (D,), the result where no process has a row.

    Returns:
        (D,), the same in every process.
    """
    if world_size() == 1 and len(means) == 1:
        return means[0] if counts[0] else default
    zero = torch.zeros_like(default)
    row_sum = sum((mean * count for mean, count in zip(means, counts, strict=True) if count), zero)
    count = all_reduce_sum(torch.full_like(zero[:1], sum(counts)))
    return torch.where(count > 0, all_reduce_sum(row_sum) / count.clamp_min(1), default)


def all_reduce_max(*numbers: int) -> list[int]:
    """The largest value of each number in any process. It goes through the CPU, so no GPU has to be waited for."""
    if world_size() == 1:
        return list(numbers)
    largest = torch.tensor(numbers)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


# Work that is divided.


def split_among_ranks(count: int) -> list[tuple[int, int]] | None:
    """[start, end) of `count` items for each rank; None where there are fewer than ranks and each should do all."""
    if world_size() == 1 or count < world_size():
        return None
    bounds = [count * number // world_size() for number in range(world_size() + 1)]
    return list(itertools.pairwise(bounds))


def all_gather_rows(values: Tensor, bounds: Sequence[tuple[int, int]]) -> None:
    """Fill in the rows of `values` (n, ...) that other ranks computed, in place. bounds: [start, end) for each rank."""
    for source, (start, end) in enumerate(bounds):
        dist.broadcast(values[start:end], source)


# Work that one process does for all, or each for itself.


def run_on_rank0(function: Callable[[], T]) -> T:
    """Call a function on rank 0, as a `single_process`, while the other processes wait.

    Returns:
        What it returns, in every process. It is pickled on the way; see `create_on_rank0` for what cannot be.

    Raises:
        Exception: What it raises, in every process.
    """
    if world_size() == 1:
        return function()
    sent: list[Any] = [None, None]
    if is_rank0():
        value, error = _call_alone(function)
        sent = [value, _without_repeated_report(error)]
    dist.broadcast_object_list(sent, 0, device=torch.device("cpu"))
    if not is_rank0():
        value, error = sent
    if error is not None:
        raise error
    return value


def create_on_rank0(function: Callable[[], T]) -> T | None:
    """Like `run_on_rank0`, for an object that cannot be pickled, such as a lease: None in the other processes."""
    created: list[T] = []
    run_on_rank0(lambda: created.append(function()))
    return created[0] if created else None


def run_on_every_rank(function: Callable[[], T]) -> T:
    """Call a function in every process, each as a `single_process`, and wait for all.

    Returns:
        What it returns in this process.

    Raises:
        Exception: What it raises in any process, in every process.
    """
    if world_size() == 1:
        return function()
    value, error = _call_alone(function)
    errors: list[Any] = [None] * world_size()
    dist.all_gather_object(errors, _without_repeated_report(error))
    for number, each in enumerate(errors):
        if each is not None:
            raise error if number == rank() else each
    return value


def _call_alone(function: Callable[[], Any]) -> tuple[Any, Any]:
    """(what it returns, None) or (None, the exception that it raises)."""
    with single_process():
        try:
            with exits_as_errors():
                return function(), None
        except Exception as error:
            return None, error


def _without_repeated_report(error: Exception | None) -> Exception | None:
    """What the other processes raise: the same error; Told for a failure, which one process reports for all."""
    if isinstance(error, Failure):
        return AlreadyReported(str(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return AlreadyReported(str(error))
    return error
