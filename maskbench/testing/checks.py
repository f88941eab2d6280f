"""The checks of the conformance suite: each raises AssertionError with what is wrong. Users see its docstring.

Randomness, cost and waiting for the device are checked by what the strategy does, not by a clock.
"""

import copy
import dataclasses
import json
import math
import random
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maskbench.core.context import SIGNALS
from maskbench.core.grid import Grid
from maskbench.core.view import View, realised_ratio
from maskbench.strategy import Strategy
from maskbench.testing.cases import (
    GRIDS,
    RATIO,
    WIDE,
    first_accepted_batch,
    make_accepted_batch,
    regimes,
    regimes_and_batches,
)
from maskbench.testing.synthetic_batch import SQUARE, SyntheticBatch, tensors_of

Check = Callable[[Strategy], None]


def _masked(view: View) -> Tensor:
    return cast(Tensor, view.recovered)


def check_documentation(strategy: Strategy) -> None:
    """The class has a docstring, and `needs` names only signals that exist."""
    assert (type(strategy).__doc__ or "").strip(), "no docstring; say what is hidden, why, and where it is published"
    unknown = sorted(strategy.needs - SIGNALS.keys())
    assert not unknown, f"needs {unknown}, which are no signals; there are {sorted(SIGNALS)}"


def check_parameters(strategy: Strategy) -> None:
    """Parameters survive JSON, and numbers out of range are refused."""
    for regime in regimes(strategy):
        again = type(strategy)(**json.loads(json.dumps(regime.parameters)))
        assert again == regime, f"{regime.parameters} comes back from JSON as {again.parameters}"
    for name, value in strategy.parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        assert not _accepts(strategy, name, math.nan), f"{name} = nan is accepted; bound it, e.g. by Ratio"
        both = _accepts(strategy, name, -1e9) and _accepts(strategy, name, 1e9)
        assert not both, f"{name} = -1e9 and 1e9 are both accepted; bound it, e.g. by Field(ge=0)"


def _accepts(strategy: Strategy, name: str, value: float) -> bool:
    try:
        strategy.replace(**{name: int(value) if isinstance(strategy.parameters[name], int) else value})
    except ValueError:
        return False
    return True


def check_shapes(strategy: Strategy) -> None:
    """Views are well formed on square, wide and tiny grids, with 1 to 5 channels."""
    for regime in regimes(strategy):
        accepted = []
        for grid in GRIDS:
            for channels in (1, 3, 5):
                batch = make_accepted_batch(regime, grid, channels=channels)
                if batch is not None:
                    _ensure_well_formed(batch.view(regime), batch)
                    accepted.append(grid)
        assert SQUARE in accepted or Grid(14, 14, 2) in accepted, "refuses both 8x8 and 14x14 patches"
        assert WIDE in accepted, "refuses 6x10 patches; rows and columns may differ"


def _ensure_well_formed(view: View, batch: SyntheticBatch) -> None:
    assert view.images.dtype == batch.images.dtype, f"view.images is {view.images.dtype}"
    for name, value in tensors_of(view).items():
        assert torch.isfinite(value.float()).all(), f"{name} is not finite on {batch.grid}"
        assert not name.startswith("weight") or (value >= 0).all(), f"{name} is negative on {batch.grid}"
    for mask in (view.replaced, view.thrown):
        assert mask is None or not (mask & ~cast(Tensor, view.hidden)).any(), "replaced and thrown are parts of hidden"
    if view.replaced is not None and view.thrown is not None:
        assert not (view.replaced & view.thrown).any(), "replaced and thrown overlap"
    if view.length is not None:
        left = cast(Tensor, view.present).sum(1)
        assert (left == view.length).all(), (
            f"length is {view.length}, but {left.tolist()} tokens are left on {batch.grid}"
        )


def check_ratio(strategy: Strategy) -> None:
    """`matched(0.75)` hides exactly that share of every image, and True means hidden."""
    if "ratio" not in strategy.parameters:
        return
    for grid in (SQUARE, WIDE):
        regime = regimes(strategy)[-1]
        if regime is strategy or (batch := make_accepted_batch(regime, grid, 64)) is None:
            continue
        realised = realised_ratio(batch.view(regime), grid)
        expected = grid.count(RATIO) / grid.size
        low, high = realised.min().item(), realised.max().item()
        assert low == high == np.float32(expected), f"hides {low:.3f} to {high:.3f} of {grid}, not {expected:.3f}"


def check_loss_weights(strategy: Strategy) -> None:
    """Masked tokens and changed pixels are in the loss; other tokens are not."""
    for regime, batch in regimes_and_batches(strategy):
        view = batch.view(regime)
        for term in view.terms:
            weight = cast(Tensor, term.weight)
            if term.warp is not None:
                continue
            area = batch.grid.pixels(weight) if weight.ndim == 2 else weight
            changed = view.images != batch.images if view.hidden is None else batch.grid.pixels(_masked(view))
            assert not (changed & ~(area > 0)).any(), "some masked tokens or changed pixels are not in the loss"
            if view.hidden is not None and weight.ndim == 2:
                assert not (weight.bool() & ~_masked(view)).any(), "a token that is not masked is in the loss"


def check_inputs_unchanged(strategy: Strategy) -> None:
    """Images and signals are not modified in place."""
    for regime, batch in regimes_and_batches(strategy):
        inputs = {"images": batch.images, **batch.signals}
        before = {name: value.clone() for name, value in inputs.items()}
        batch.view(regime)
        for name, value in inputs.items():
            assert torch.equal(value, before[name]), f"{name} is modified in place"


def check_global_generators(strategy: Strategy) -> None:
    """No number is drawn from the global generators of torch, numpy and Python."""
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        for regime in regimes(strategy):
            batch = first_accepted_batch(regime)
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(1)  # so that a strategy that seeds them itself is noticed
            before = _generator_states()
            batch.view(regime)
            for name, state in _generator_states().items():
                assert state == before[name], f"draws from {name}'s global generator; draw from the context"
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])


def _generator_states() -> dict[str, Any]:
    numpy = np.random.get_state(legacy=False)["state"]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numpy["key"].tolist(), numpy["pos"]),
        "Python": random.getstate(),
    }


def check_repeatability(strategy: Strategy) -> None:
    """The same seed, epoch and sample give the same view."""
    for regime in regimes(strategy):
        batch = first_accepted_batch(regime)
        first, second = tensors_of(batch.view(regime)), tensors_of(batch.view(regime))
        for name, value in first.items():
            assert torch.equal(value, second[name]), f"{name} differs between two calls with the same seed"


def check_row_independence(strategy: Strategy) -> None:
    """An image's view does not depend on which others are in its batch, on their order, or on their number."""
    for regime in regimes(strategy):
        batch = first_accepted_batch(regime)
        whole = tensors_of(batch.view(regime, step=9))
        selections = {"a slice": range(32, 64), "another order": [5, 40, 17], "one": [50]}
        for selection, numbers in selections.items():
            chosen = torch.tensor(numbers)
            selected = tensors_of(batch.take(chosen).view(regime, step=9))
            for name, value in whole.items():
                # Pixels may come from another image of the same group of 32, masks from nowhere else.
                if len(chosen) == 32 or name == "hidden" or value.ndim == 2:
                    same = torch.allclose(value[chosen].float(), selected[name].float(), atol=1e-5)
                    assert same, f"{name} changes when the batch is {selection} of it"


def check_distinct_draws(strategy: Strategy) -> None:
    """Equal images get different draws, unless scope is "batch"; draws change with both the seed and the epoch."""
    for regime in regimes(strategy):
        batch = first_accepted_batch(regime)
        signals = {name: value[:1].expand_as(value).contiguous() for name, value in batch.signals.items()}
        same = dataclasses.replace(batch, images=batch.images[:1].expand_as(batch.images).contiguous(), signals=signals)
        view = tensors_of(same.view(regime))
        others = [tensors_of(same.view(regime, **{name: 1})) for name in ("seed", "epoch")]
        changed = [any(not torch.equal(view[name], other[name]) for name in view) for other in others]
        assert changed[0] == changed[1], "draws change with one of seed and epoch, but not with the other"
        if not changed[0] or regime.parameters.get("scope") == "batch":
            continue  # it does not draw at all, or once for the batch
        drawn = torch.cat([value.reshape(len(value), -1).float() for value in view.values()], 1)
        assert (drawn != drawn[0]).any(), (
            "all images get the same draw; add a parameter scope='batch' if it is intended"
        )


def check_coverage(strategy: Strategy) -> None:
    """Every patch is masked in some draws and seen in others, unless `covers_all` is False."""
    for regime in regimes(strategy):
        batch = first_accepted_batch(regime, 512)
        masked = torch.zeros(batch.grid.size)
        seen = torch.zeros(batch.grid.size)
        for seed in range(4):
            view = batch.view(regime, seed=seed)
            if view.hidden is None:
                return
            masked += _masked(view).sum(0)
            seen += (~view.hidden).sum(0)
        if regime.covers_all:
            for state, count in (("masked", masked), ("seen", seen)):
                never = (count == 0).nonzero()[:, 0].tolist()
                assert not never, f"patches {never} of {batch.grid} are never {state} in {4 * 512} draws"


def check_batching(strategy: Strategy) -> None:
    """There is no Python loop over images: as many function calls for 64 images as for 16."""
    for regime in regimes(strategy):
        few, many = (_count_calls(regime, first_accepted_batch(regime, size)) for size in (16, 64))
        assert many <= 1.05 * few, f"{few} function calls for 16 images, {many} for 64"


def _count_calls(strategy: Strategy, batch: SyntheticBatch) -> int:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    batch.view(strategy)  # fills whatever is cached on first use
    sys.setprofile(count)
    try:
        batch.view(strategy)
    finally:
        sys.setprofile(None)
    return calls


def check_device(strategy: Strategy) -> None:
    """It stays on the images' device and never waits for it: no .item(), no sizes that depend on values."""
    for regime in regimes(strategy):
        real = first_accepted_batch(regime, 8)
        for place in ("cpu", "meta"):
            module = None if real.module is None else copy.deepcopy(real.module).to(place)
            with FakeTensorMode(allow_non_fake_inputs=True):
                signals = {name: torch.empty_like(value, device=place) for name, value in real.signals.items()}
                batch = dataclasses.replace(
                    real, images=torch.empty_like(real.images, device=place), signals=signals, module=module,
                    index=torch.arange(8, device=place), rows=torch.arange(8, device=place),
                )  # fmt: skip
                for name, value in tensors_of(batch.view(regime)).items():
                    assert value.device.type == place, f"{name} is on {value.device.type}, the images on {place}"


CHECKS: tuple[Check, ...] = (
    check_documentation,
    check_parameters,
    check_shapes,
    check_ratio,
    check_loss_weights,
    check_inputs_unchanged,
    check_global_generators,
    check_repeatability,
    check_row_independence,
    check_distinct_draws,
    check_coverage,
    check_batching,
    check_device,
)
