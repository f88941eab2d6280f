"""What the content of a checkpoint must be like before a run goes on from it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from maskbench.training.train_state import TrainState

MAX_DEPTH, MAX_VALUES = 16, 100_000  # of the configuration and the environment
Check = Callable[[Any], bool]


class Unfitting(ValueError):
    """A checkpoint that is whole, and yet none of this run's; the message says what is wrong with it."""


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_plain(value: Any) -> bool:
    """Whether it is a mapping by text of plain values, few enough to be compared and named."""
    waiting, count = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            return False
        if isinstance(each, dict):
            if not all(isinstance(key, str) for key in each):
                return False
            waiting += [(inner, depth + 1) for inner in each.values()]
        elif isinstance(each, list | tuple):
            waiting += [(inner, depth + 1) for inner in each]
        elif not (each is None or isinstance(each, str | int | float)):
            return False
    return isinstance(value, dict)


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and all(isinstance(name, str) for name in row)
        and all(isinstance(number, int | float) for number in row.values())
        for row in value
    )  # fmt: skip


def _is_lines(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def _is_watch(value: Any) -> bool:
    phases = value.get("phases_s") if isinstance(value, dict) else None
    return isinstance(phases, dict) and all(map(_is_amount, [*phases.values(), value.get("total_s")])) and _is_count(
        value.get("steps")
    )  # fmt: skip


def _is_vector(*shape: int) -> Check:
    return lambda value: isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()


CONTENT: dict[str, Check] = {
    "identity": _is_plain,
    "environment": _is_plain,
    "state": lambda value: isinstance(value, dict),
    "watch": _is_watch,
    "warnings": _is_lines,
    "interruptions": _is_count,
    "wall_s": _is_amount,
    "checkpoint_s": _is_amount,
    "peak_memory_mib": _is_amount,
}
STATE: dict[str, Check] = {
    "step": _is_count,
    "curve": _is_curve,
    "loss_sum": _is_vector(),
    "ratio_sums": _is_vector(3),
    "log_sums": lambda value: isinstance(value, dict) and all(map(_is_vector(), value.values())),
}


def ensure_content(content: Mapping[str, Any]) -> None:
    """Unfitting where a checkpoint lacks a part, or one is of another type or range."""
    _ensure_all(content, CONTENT, "")
    _ensure_all(content["state"], STATE, "state.")
    useless = content["state"].get("useless_sums")  # older versions did not count them
    if useless is not None and not _is_vector(2)(useless):
        raise Unfitting("its state.useless_sums is not as maskbench writes it")


def _ensure_all(content: Mapping[str, Any], checks: Mapping[str, Check], prefix: str) -> None:
    for name, is_valid in checks.items():
        if name not in content:
            raise Unfitting(f"it has no {prefix}{name}")
        if not is_valid(content[name]):
            raise Unfitting(f"its {prefix}{name} is not as maskbench writes it")


def load_state(state: TrainState, stored: dict[str, Any]) -> None:
    """Load what `ensure_content` has checked into `state`.

    Unfitting where networks or optimizer have other names or shapes; `state` may then be changed in part.
    """
    try:
        state.load_state_dict(stored)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:  # of torch
        raise Unfitting(f"its networks or its optimizer are other ones: {' '.join(str(error).split())[:200]}") from None
    optimizers = [state.optimizer] if isinstance(state.optimizer, torch.optim.Optimizer) else [
        state.optimizer.muon, state.optimizer.adamw
    ]  # fmt: skip
    for optimizer in optimizers:
        for parameter, values in optimizer.state.items():
            if any(each.shape not in ((), parameter.shape) for each in values.values() if isinstance(each, Tensor)):
                raise Unfitting("its optimizer is of other weights")
