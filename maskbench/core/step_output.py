"""What an objective returns for a step."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision widened to float32, in which losses are computed; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class StepOutput(NamedTuple):
    """What an objective returns for a step.

    Attributes:
        loss: () the loss to minimise.
        patch_loss: (B, N) error of each patch, detached; None where the objective has none.
        prediction: (B, C, H, W) recovered images in the units of the normalised target; None where there are none.
        logs: () detached numbers by name. Their means over an epoch join the curve in the record.
        each: The outputs of several crops, if each has its own; `patch_loss` and `prediction` are then the first one's.
    """

    loss: Tensor
    patch_loss: Tensor | None = None
    prediction: Tensor | None = None
    logs: Mapping[str, Tensor] = {}
    each: tuple["StepOutput", ...] = ()
