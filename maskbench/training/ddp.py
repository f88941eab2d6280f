"""Gradients averaged over processes: DistributedDataParallel."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maskbench.runtime import collectives


def wrap_ddp(module: nn.Module) -> nn.Module:
    """`module` with gradients averaged over processes: DistributedDataParallel.

    Some parameters are not in use, always or at times (mask tokens, frozen prototypes); they keep having no gradient.
    Buffers follow from what all processes know, so nobody sends them.
    """
    if collectives.world_size() == 1:
        return module
    device = next(module.parameters()).device
    # Were all in use, torch would warn of that, from C++ straight to stderr, where no filter of Python's reaches it.
    module.register_parameter("idle", nn.Parameter(torch.zeros(1, device=device)))
    with warnings.catch_warnings():  # some versions of torch announce another name for the same
        warnings.filterwarnings("ignore", "`broadcast_buffers`")
        return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)


def without_sync(module: nn.Module) -> AbstractContextManager[Any]:
    """For all parts of a batch but the last: gradients add up in the process and are not averaged yet."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()
