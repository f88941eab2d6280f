"""The checks of a strategy: each raises Mistake with what is wrong and the remedy. Users see its docstring.

Randomness, cost and waiting for the device are checked by what the strategy does, not by a clock.
"""

import copy
import dataclasses
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maskbench.core.context import SIGNALS
from maskbench.core.grid import Grid
from maskbench.core.view import View, realised_ratio
from maskbench.errors import UsageError
from maskbench.strategy import Strategy
from maskbench.testing.cases import (
    GRIDS,
    RATIO,
    WIDE,
    first_accepted_batch,
    generator_states,
    make_accepted_batch,
    make_accepted_view,
    refusal,
    regimes,
    regimes_and_batches,
)
from maskbench.testing.component_checks import (
    ensure_documented,
    ensure_parameters_bounded,
    ensure_parameters_survive_json,
)
from maskbench.testing.mistakes import Mistake, ensure, line_of_change, locate_error, source_files
from maskbench.testing.synthetic_batch import SQUARE, SyntheticBatch, make_batch, tensors_of

Check = Callable[[Strategy], None]


def _masked(view: View) -> Tensor:
    return cast(Tensor, view.recovered)


def check_documentation(strategy: Strategy) -> None:
    """The class has a docstring, and `needs` names only signals that exist."""
    ensure_documented(strategy, "say what is hidden, why, and where it is published")
    needs = strategy.needs
    ensure(isinstance(needs, frozenset | set), f"needs is {needs!r}; write needs = frozenset({{...}})", "needs")
    unknown = sorted(needs - SIGNALS.keys())
    ensure(not unknown, f"needs {unknown}, which are no signals; there are {sorted(SIGNALS)}", "needs")


def check_parameters(strategy: Strategy) -> None:
    """Parameters survive JSON, and numbers out of range are refused."""
    for regime in regimes(strategy):
        ensure_parameters_survive_json(regime)
    ensure_parameters_bounded(strategy)


def check_matched(strategy: Strategy) -> None:
    """`matched(ratio)` returns a strategy of this kind, or refuses the ratio with a UsageError."""
    for ratio in (0.25, RATIO):
        try:
            matched: object = strategy.matched(ratio)
        except UsageError as error:
            if str(error).startswith("unknown parameter"):  # a typo, and no refusal of the ratio
                raise
            continue
        kind = type(matched).__name__
        ensure(
            isinstance(matched, type(strategy)), f"matched({ratio}) returns {kind}; return self.replace(...)", "matched"
        )


def check_shapes(strategy: Strategy) -> None:
    """Views are well formed on square, wide and tiny grids, with 1 to 5 channels."""
    for regime in regimes(strategy):
        accepted = []
        for grid in GRIDS:
            for channels in (1, 3, 5):
                if (made := make_accepted_view(regime, grid, channels=channels)) is not None:
                    _ensure_well_formed(made[1], made[0])
                    accepted.append(grid)
        for grid in (SQUARE, WIDE):
            if grid not in accepted and not (grid is SQUARE and Grid(14, 14, 2) in accepted):
                shape = "8x8 and 14x14 patches" if grid is SQUARE else "6x10 patches; rows and columns may differ"
                raise Mistake(f"refuses {shape}, with: {refusal(regime, grid)}")


def _ensure_well_formed(view: View, batch: SyntheticBatch, when: str = "") -> None:
    where = f"on {batch.grid}{when}"
    for name, value in tensors_of(view).items():
        ensure(torch.isfinite(value.float()).all(), f"{name} is not finite {where}; avoid divisions by 0")
        positive = not name.startswith("weight") or (value >= 0).all()
        ensure(positive, f"{name} is negative {where}; weights are 0 or more")
    for mask in (view.replaced, view.thrown):
        part = mask is None or not (mask & ~cast(Tensor, view.hidden)).any()
        ensure(part, "replaced or thrown tokens are not hidden; add them to hidden")
    if view.replaced is not None and view.thrown is not None:
        ensure(not (view.replaced & view.thrown).any(), "replaced and thrown overlap; a token is one of the two")
    if view.length is not None:
        left = len(batch.images) * [batch.grid.size] if view.present is None else view.present.sum(1).tolist()
        ensure(
            all(count == view.length for count in left),
            f"length is {view.length}, but {min(left)} to {max(left)} tokens are left {where}; leave it out or count",
        )


def check_schedule(strategy: Strategy) -> None:
    """Views are well formed from the start of training to its end."""
    for regime in regimes(strategy):
        batch = first_accepted_batch(regime, 8)
        for progress in (0.0, 0.5, 1.0):
            _ensure_well_formed(batch.view(regime, progress=progress), batch, f" at progress {progress}")


def check_precision(strategy: Strategy) -> None:
    """Images may be float64, float16 or bfloat16, and stay what they are."""
    for regime in regimes(strategy):
        grid = first_accepted_batch(regime, 8).grid
        for dtype in (torch.float64, torch.float16, torch.bfloat16):
            try:
                made = make_accepted_view(regime, grid, dtype=dtype)
            except (RuntimeError, TypeError) as error:  # torch has no such kernel, or types are mixed
                said = f"{type(error).__name__} in {dtype}: {' '.join(str(error).split())}"
                remedy = "compute in float32, e.g. from images.float(), and return .to(images.dtype)"
                raise Mistake(f"{said[:200]}; {remedy}", locate_error(error, strategy)) from None
            if made is not None:
                _ensure_well_formed(made[1], made[0], f" in {dtype}")


def check_ratio(strategy: Strategy) -> None:
    """`matched(0.75)` hides exactly that share of every image at any time, and True means hidden."""
    regime = regimes(strategy)[-1]
    if regime is strategy:
        return
    for grid in (SQUARE, WIDE):
        if (batch := make_accepted_batch(regime, grid, 64)) is None:
            continue
        for progress in (0.0, 0.5, 1.0):
            view = batch.view(regime, progress=progress)
            if (view.hidden is None and "ratio" not in strategy.parameters) or (not view.terms and view.hidden is None):
                break
            _ensure_hides(view, grid, progress)


def _ensure_hides(view: View, grid: Grid, progress: float) -> None:
    realised = realised_ratio(view, grid)
    expected = grid.count(RATIO) / grid.size
    low, high = realised.min().item(), realised.max().item()
    ensure(
        low == high == np.float32(expected),
        f"matched({RATIO}) hides {low:.3f} to {high:.3f} of {grid} at progress {progress}, not {expected:.3f}; "
        f"hide grid.count(ratio) tokens, or override `matched`",
    )


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
            some = "some masked tokens or changed pixels are not in the loss; give their Term a weight above 0"
            ensure(not (changed & ~(area > 0)).any(), some)
            if view.hidden is not None and weight.ndim == 2:
                seen = "a token that is not masked is in the loss; give it weight 0"
                ensure(not (weight.bool() & ~_masked(view)).any(), seen)


def check_inputs_unchanged(strategy: Strategy) -> None:
    """Images and signals are not modified in place."""
    for regime in regimes(strategy):
        for grid in (SQUARE, WIDE):
            if make_accepted_batch(regime, grid) is not None:
                _ensure_inputs_unchanged(regime, make_batch(regime, 8, grid))


def _ensure_inputs_unchanged(strategy: Strategy, batch: SyntheticBatch) -> None:
    inputs = {"images": batch.images, **batch.signals}  # as the strategy gets them for the first time
    before = {name: (value.clone(), value._version) for name, value in inputs.items()}
    batch.view(strategy)
    for name, value in inputs.items():
        # torch counts writes, also those that happen to change nothing
        if value._version != before[name][1] or not torch.equal(value, before[name][0]):
            again = make_batch(strategy, 8, batch.grid)
            watched = {"images": again.images, **again.signals}[name]
            line = line_of_change(
                partial(again.view, strategy), source_files(strategy), partial(getattr, watched, "_version")
            )
            raise Mistake(f"{name} is modified in place; work on {name}.clone()", line or "__call__")


def check_global_generators(strategy: Strategy) -> None:
    """No number is drawn from the global generators of torch, numpy and Python."""
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        for regime in regimes(strategy):
            batch = first_accepted_batch(regime)
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(1)  # so that a strategy that seeds them itself is noticed
            before = generator_states()
            batch.view(regime)
            for name, state in generator_states().items():
                if state != before[name]:
                    line = line_of_change(partial(batch.view, regime), source_files(regime), generator_states)
                    said = f"draws from {name}'s global generator; draw from the context, e.g. context.uniform(...)"
                    raise Mistake(said, line or "__call__")
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])


def check_repeatability(strategy: Strategy) -> None:
    """The same seed, epoch and sample give the same view."""
    for regime in regimes(strategy):
        batch = first_accepted_batch(regime)
        first, second = tensors_of(batch.view(regime)), tensors_of(batch.view(regime))
        for name, value in first.items():
            same = torch.equal(value, second[name])
            ensure(same, f"{name} differs between two calls with the same seed; draw from the context, keep no state")


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
                    remedy = "compute each row from its own image and draws"
                    ensure(same, f"{name} changes when the batch is {selection} of it; {remedy}")


def check_distinct_draws(strategy: Strategy) -> None:
    """Equal images get different draws, unless scope is "batch"; draws change with both the seed and the epoch."""
    for regime in regimes(strategy):
        batch = first_accepted_batch(regime)
        signals = {name: value[:1].expand_as(value).contiguous() for name, value in batch.signals.items()}
        same = dataclasses.replace(batch, images=batch.images[:1].expand_as(batch.images).contiguous(), signals=signals)
        view = tensors_of(same.view(regime))
        others = [tensors_of(same.view(regime, **{name: 1})) for name in ("seed", "epoch")]
        changed = [any(not torch.equal(view[name], other[name]) for name in view) for other in others]
        one = "draws change with one of seed and epoch, but not with the other; draw from the context"
        ensure(changed[0] == changed[1], one)
        if not changed[0] or regime.parameters.get("scope") == "batch":
            continue  # it does not draw at all, or once for the batch
        drawn = torch.cat([value.reshape(len(value), -1).float() for value in view.values()], 1)
        said = "all images get the same draw; draw one number an image, or add a parameter scope='batch'"
        ensure((drawn != drawn[0]).any(), said)


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
                said = f"patches {never} of {batch.grid} are never {state} in {4 * 512} draws"
                ensure(not never, f"{said}; if the rule means it, override covers_all with False")


def check_batching(strategy: Strategy) -> None:
    """There is no Python loop over images: as many function calls for 64 images as for 16."""
    for regime in regimes(strategy):
        few, many = (_count_calls(regime, first_accepted_batch(regime, size)) for size in (16, 64))
        said = f"{few} function calls for 16 images, {many} for 64; compute all images at once, on (B, ...)"
        ensure(many <= 1.05 * few, said)


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
                    said = f"{name} is on {value.device.type}, the images on {place}; make tensors on images.device"
                    ensure(value.device.type == place, said)
