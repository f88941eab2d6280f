"""What an objective says of a step."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """In float32 at least, which losses are computed in: half precision is widened, float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Outcome(NamedTuple):
    """loss: scalar to minimise. patch_loss: (B, N) error of each patch, detached, where the objective has one.
    prediction: (B, C, H, W) recovered image in the normalised target's units, where there is one.
    logs: scalars by name, detached; their means over an epoch join the curve. each: the outcomes of several crops,
    where each has its own; patch_loss and prediction are the first's."""

    loss: Tensor
    patch_loss: Tensor | None = None
    prediction: Tensor | None = None
    logs: Mapping[str, Tensor] = {}
    each: tuple["Outcome", ...] = ()
