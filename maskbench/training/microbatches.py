"""Parts of a batch, in other processes or one after the other: the mean of their losses is the loss of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskbench.core.view import Term
from maskbench.objective import Examples, Outcome
from maskbench.runtime import distributed

ROWS = 32  # of which each part holds a multiple: images are mixed with others of their 32


@dataclass(frozen=True)
class Part:
    """Rows of a batch: the numbers of their images (B,) int64, the place of the first, how many the batch has."""

    index: Tensor
    start: int
    size: int


def cut(index: Tensor, count: int) -> list[Part]:
    """This process's share of the batch `index`, in `count` parts."""
    size, world = len(index), distributed.world()
    rows = size // (world * count)
    starts = [(distributed.rank() * count + number) * rows for number in range(count)]
    return [Part(index[start : start + rows], start, size) for start in starts]


def refusal(batch: int, count: int) -> str | None:
    """Why a batch cannot be cut into `count` parts in each process, with a size that can; None where it can."""
    world = distributed.processes()
    unit = ROWS * world * count
    if world * count == 1 or batch % unit == 0:
        return None
    near = sorted({max(1, batch // unit) * unit, -(-batch // unit) * unit})
    ways = [f"{world} processes"] * (world > 1) + [f"train.accumulate={count} parts"] * (count > 1)
    return (
        f"a batch of {batch} does not divide among {' of '.join(ways)} in multiples of {ROWS} images; "
        f"try --batch-size {' or '.join(map(str, near))}"
    )


def whole(given: Sequence[Examples]) -> Sequence[Examples]:
    """The parts that this process has of a batch, told what they must know of the rest: the mean weight of each term
    over all parts, by which it is divided instead of its own, and which part is the last."""
    if len(given) * distributed.world() == 1:
        return given
    weights = torch.stack([_mean_weights(each) for each in given]).mean(0)
    density = distributed.mean(weights) if len(weights) else weights
    last = len(given) - 1
    return [replace(_divided(each, density), last=number == last) for number, each in enumerate(given)]


def _mean_weights(given: Examples) -> Tensor:
    """(T,) of the terms of all views."""
    terms = [term for view in given.views for term in view.terms]
    return torch.stack([_weight(term).mean() for term in terms]) if terms else torch.zeros(0)


def _weight(term: Term) -> Tensor:
    assert term.weight is not None, "the view is complete"
    return term.weight


def _divided(given: Examples, density: Tensor) -> Examples:
    each, views = iter(density), []
    for view in given.views:
        views.append(replace(view, terms=tuple(replace(term, density=next(each)) for term in view.terms)))
    return replace(given, views=tuple(views))


def joint(outcomes: Sequence[Outcome]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the logs of a batch, given the outcomes of the parts that this process has."""
    one = outcomes[0]
    if len(outcomes) * distributed.world() == 1:
        return one.loss, dict(one.logs)
    rows = [torch.stack([outcome.loss, *outcome.logs.values()]) for outcome in outcomes]
    loss, *logs = distributed.mean(torch.stack(rows).mean(0))
    return loss, dict(zip(one.logs, logs, strict=True))
