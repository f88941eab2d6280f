"""Micro-batches: a batch in parts, in other processes or one after the other (gradient accumulation).

The mean of the micro-batches' losses is the loss of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskbench.core.view import MicroBatchTerm, Term
from maskbench.objective import Examples, StepOutput
from maskbench.runtime import collectives

ROWS = 32  # of which each micro-batch holds a multiple: images are mixed with others of their 32


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a batch.

    Attributes:
        index: (B,) int64, the numbers of their images.
        start: Place of the first row in the batch.
        size: Rows of the whole batch.
    """

    index: Tensor
    start: int
    size: int


def split_batch(index: Tensor, count: int) -> list[MicroBatch]:
    """This process's share of the batch `index`, in `count` micro-batches."""
    size, world = len(index), collectives.world_size()
    rows = size // (world * count)
    starts = [(collectives.rank() * count + number) * rows for number in range(count)]
    return [MicroBatch(index[start : start + rows], start, size) for start in starts]


def indivisible_reason(batch: int, count: int) -> str | None:
    """Why a batch cannot be split into `count` micro-batches per process, with a size that can; None where it can."""
    world = collectives.process_count()
    unit = ROWS * world * count
    if world * count == 1 or batch % unit == 0:
        return None
    near = sorted({max(1, batch // unit) * unit, -(-batch // unit) * unit})
    ways = [f"{world} processes"] * (world > 1) + [f"train.accumulate={count} parts"] * (count > 1)
    return (
        f"a batch of {batch} does not divide among {' of '.join(ways)} in multiples of {ROWS} images; "
        f"try --batch-size {' or '.join(map(str, near))}"
    )


def share_term_weights(micro_batches: Sequence[Examples]) -> Sequence[Examples]:
    """The micro-batches of this process, with what they must know of the rest of the batch: the mean weight of each
    term over all of it, by which the term is divided, and which of them is the last."""
    if len(micro_batches) * collectives.world_size() == 1:
        return micro_batches
    weights = torch.stack([_mean_weights(examples) for examples in micro_batches]).mean(0)
    mean_weights = collectives.all_reduce_mean(weights) if len(weights) else weights
    last = len(micro_batches) - 1
    return [
        replace(_with_mean_weights(examples, mean_weights), last=number == last)
        for number, examples in enumerate(micro_batches)
    ]


def _mean_weights(examples: Examples) -> Tensor:
    """(T,) of the terms of all views."""
    terms = [term for view in examples.views for term in view.terms]
    return torch.stack([_weight(term).mean() for term in terms]) if terms else torch.zeros(0)


def _weight(term: Term) -> Tensor:
    assert term.weight is not None, "the view is complete"
    return term.weight


def _with_mean_weights(examples: Examples, mean_weights: Tensor) -> Examples:
    each, views = iter(mean_weights), []
    for view in examples.views:
        terms = tuple(MicroBatchTerm(**vars(term), mean_weight=next(each)) for term in view.terms)
        views.append(replace(view, terms=terms))
    return replace(examples, views=tuple(views))


def mean_outputs(outputs: Sequence[StepOutput]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the logs of a batch, given the outputs of the micro-batches that this process has."""
    one = outputs[0]
    if len(outputs) * collectives.world_size() == 1:
        return one.loss, dict(one.logs)
    rows = [torch.stack([output.loss, *output.logs.values()]) for output in outputs]
    loss, *logs = collectives.all_reduce_mean(torch.stack(rows).mean(0))
    return loss, dict(zip(one.logs, logs, strict=True))
