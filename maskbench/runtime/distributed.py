"""One run by several processes: sums over all of them, and what the first one does for all.

With one process everything here is the identity, so the code that uses it is written once. The loss of a batch is the
mean of the losses of its parts (maskbench.training.microbatches): each process takes the gradient of its own, and
DistributedDataParallel averages them.
"""

import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from maskbench.errors import Failure, Told

T = TypeVar("T")
_alone = 0  # how many blocks say so


# Who is there.


def processes() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def world() -> int:
    """How many processes share what is being done."""
    return 1 if _alone else processes()


def rank() -> int:
    """The place of this one among them."""
    return 0 if world() == 1 else dist.get_rank()


def first() -> bool:
    """Whether this process writes and speaks; also in what it does alone."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """In it, this process waits for no other."""
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


# Numbers that depend on the whole batch.


class _Sum(torch.autograd.Function):
    """Over all processes, of values and of gradients. torch has two of these, one deprecated and one internal."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(gradient)
        return summed


def total(values: Tensor) -> Tensor:
    """The sum over processes, differentiable."""
    if world() == 1:
        return values
    summed: Tensor = _Sum.apply(values)
    return summed


def mean(values: Tensor) -> Tensor:
    """The mean over processes, which is that over the batch for means over equal parts of it; differentiable."""
    return values if world() == 1 else total(values) / world()


def gather(values: Tensor) -> Tensor:
    """(processes * B, ...) of (B, ...) in each, in the order of the batch; differentiable."""
    if world() == 1:
        return values
    everywhere = [torch.zeros_like(values) for _ in range(world())]
    everywhere[rank()] = values
    return total(torch.cat(everywhere))


def pooled(means: Sequence[Tensor], counts: Sequence[int], otherwise: Tensor) -> Tensor:
    """(D,) the mean over all rows everywhere, given means over so many rows each; `otherwise` if there is no row."""
    if world() == 1 and len(means) == 1:
        return means[0] if counts[0] else otherwise
    zero = torch.zeros_like(otherwise)
    summed = sum((part * count for part, count in zip(means, counts, strict=True) if count), zero)
    count = total(torch.full_like(zero[:1], sum(counts)))
    return torch.where(count > 0, total(summed) / count.clamp_min(1), otherwise)


# What all do together.


def shares(count: int) -> list[tuple[int, int]] | None:
    """[from, to) of `count` things for each process; None where there are too few, and each process does all."""
    if world() == 1 or count < world():
        return None
    bounds = [count * number // world() for number in range(world() + 1)]
    return list(itertools.pairwise(bounds))


def exchange(values: Tensor, bounds: Sequence[tuple[int, int]]) -> None:
    """Fill in the rows of `values` (n, ...) that others have made; bounds: [from, to) for each process."""
    for source, (start, end) in enumerate(bounds):
        dist.broadcast(values[start:end], source)


def agreed(*numbers: int) -> list[int]:
    """The largest that any process gives, for each. Goes by the host, so that no GPU is waited for."""
    if world() == 1:
        return list(numbers)
    largest = torch.tensor(numbers)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def on_first(function: Callable[[], T]) -> T:
    """What `function`, which the first process calls alone, returns or raises there, in all of them."""
    if world() == 1:
        return function()
    answer: list[Any] = [None, None]
    if first():
        with alone():
            value, error = _tried(function)
        answer = [value, _sendable(error)]
    dist.broadcast_object_list(answer, 0, device=torch.device("cpu"))
    if first():
        answer = [value, error]
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def first_alone(function: Callable[[], T]) -> T | None:
    """What `function`, which the first process calls alone, returns there, None elsewhere; what it raises in all."""
    kept: list[T] = []
    on_first(lambda: kept.append(function()))
    return kept[0] if kept else None


def together(function: Callable[[], T]) -> T:
    """What `function`, which every process calls alone, returns here. What it raises anywhere is raised in all."""
    if world() == 1:
        return function()
    with alone():
        value, error = _tried(function)
    errors: list[Any] = [None] * world()
    dist.all_gather_object(errors, _sendable(error))
    for number, each in enumerate(errors):
        if each is not None:
            raise error if number == rank() else each
    return value


def _tried(function: Callable[[], Any]) -> list[Any]:
    """[what it returns, None] or [None, what it raises]."""
    try:
        return [function(), None]
    except Exception as error:
        return [None, error]


def _sendable(error: Exception | None) -> Exception | None:
    """What the other processes raise: the same, but for failures, of which one process speaks."""
    if isinstance(error, Failure):
        return Told(str(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return Told(str(error))
    return error
