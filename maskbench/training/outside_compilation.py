"""Functions that a compiled training step calls as they are."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_compilation(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: inside `torch.compile`, `function` runs uncompiled, and its arguments cause no recompilation.

    A strategy's numbers change with every step (epoch, progress, hashed seeds), so that a trace of it would be stale at
    once. The compiled code around the call is split in two, once.
    """
    outside: Callable[P, R] = torch.compiler.disable(function)
    return outside
