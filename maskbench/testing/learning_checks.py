"""The checks of what a strategy learns: `build`, `kept` and `loss`."""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from maskbench.core.context import Context
from maskbench.core.step_output import StepOutput
from maskbench.core.view import View, complete
from maskbench.strategy import Strategy
from maskbench.testing.cases import WIDE, first_accepted_batch, make_accepted_batch, regimes
from maskbench.testing.mistakes import Mistake, ensure
from maskbench.testing.synthetic_batch import SIGNAL_WIDTH, SQUARE, SyntheticBatch, make_batch


def check_build(strategy: Strategy) -> None:
    """`build` returns a module or None, the same for the same seed of torch, and leaves the sample as it is."""
    if type(strategy).build is Strategy.build:
        return
    for grid in (SQUARE, WIDE):
        sample = torch.randn(8, 3, *grid.image_size, generator=torch.Generator().manual_seed(7))
        try:
            modules = [_build(partial(strategy.build, sample, grid, SIGNAL_WIDTH)) for _ in range(2)]
        except ValueError:  # refuses the grid
            continue
        ensure(sample._version == 0, "build modifies its sample in place; work on sample.clone()", "build")
        for module in modules:
            kind = type(module).__name__
            said = f"build returns {kind}; return an nn.Module or None"
            ensure(module is None or isinstance(module, nn.Module), said, "build")
        states = [dict(module.state_dict()) if module is not None else {} for module in modules]
        same = all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        ensure(same, "build gives other weights for the same seed; draw them by torch alone, without a seed", "build")


def _build(build: Callable[[], nn.Module | None]) -> nn.Module | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return build()


def check_loss(strategy: Strategy) -> None:
    """`loss` gives a finite scalar or None, from what `__call__` kept for it, and gradients reach the module."""
    for regime in regimes(strategy):
        if type(strategy).loss is Strategy.loss and first_accepted_batch(regime, 8).module is None:
            continue
        for grid in (SQUARE, WIDE):
            if make_accepted_batch(regime, grid) is not None:
                _ensure_learns(regime, make_batch(regime, 8, grid))
                _ensure_no_state(regime, make_batch(regime, 8, grid))


def _view(strategy: Strategy, batch: SyntheticBatch, context: Context) -> View:
    with torch.set_grad_enabled(batch.module is not None):
        return complete(strategy(batch.images, context), batch.images, batch.grid, strategy.name)


def _make_output(view: View, batch: SyntheticBatch) -> StepOutput:
    """What an objective might make of a view: a loss to which gradients pass from its images and weights."""
    weights = [cast(Tensor, term.weight).float().mean() for term in view.terms]
    loss = view.images.float().square().mean() + sum(weights, torch.zeros(()))
    patch_loss = torch.rand(len(batch.images), batch.grid.size, generator=torch.Generator().manual_seed(11))
    return StepOutput(loss, patch_loss)


def _call_loss(strategy: Strategy, view: View, batch: SyntheticBatch, context: Context) -> tuple[StepOutput, object]:
    """The objective's output, and what the strategy's `loss` makes of it."""
    given = _make_output(view, batch)
    if strategy.learns_from_patch_loss:
        return given, strategy.loss(view, given, context)
    without = given._replace(patch_loss=None)
    try:
        return without, strategy.loss(view, without, context)
    except Exception:
        strategy.loss(view, given, context)  # fails, too, if it is not for the patch loss
        said = "loss reads output.patch_loss, which some objectives lack; set learns_from_patch_loss = True"
        raise Mistake(said, "loss") from None


def _ensure_learns(strategy: Strategy, batch: SyntheticBatch) -> None:
    context = batch.context()
    view = _view(strategy, batch, context)
    for name, value in context.kept.items():
        ensure(isinstance(value, Tensor), f"context.kept[{name!r}] is {type(value).__name__}; keep tensors only")
    output, extra = _call_loss(strategy, view, batch, context)
    if extra is not None:
        ensure(isinstance(extra, Tensor), f"loss returns {type(extra).__name__}; return a () tensor or None", "loss")
        assert isinstance(extra, Tensor)
        ensure(extra.ndim == 0, f"loss returns {tuple(extra.shape)}; return a () tensor, e.g. by .mean()", "loss")
        ensure(extra.isfinite(), "loss is not finite; avoid divisions by 0 and logarithms of 0", "loss")
    total = output.loss if extra is None else output.loss + extra
    parameters = [] if batch.module is None else [p for p in batch.module.parameters() if p.requires_grad]
    if parameters:
        if total.requires_grad:
            total.backward()
        where = "loss" if type(strategy).loss is not Strategy.loss else "__call__"
        said = "no gradient reaches the module; use context.module in __call__, and detach not all that it gives"
        ensure(any(parameter.grad is not None for parameter in parameters), said, where)


def _ensure_no_state(strategy: Strategy, batch: SyntheticBatch) -> None:
    """The loss of some images is the same after `__call__` has seen others, as with several crops of each image."""
    halves = [batch.take(torch.arange(start, start + 4)) for start in (0, 4)]
    losses = []
    for between in (False, True):
        context = halves[0].context()
        view = _view(strategy, halves[0], context)
        if between:
            _view(strategy, halves[1], halves[1].context())
        loss = _call_loss(strategy, view, halves[0], context)[1]
        losses.append(loss.detach() if isinstance(loss, Tensor) else torch.zeros(()))
    said = "loss depends on what __call__ saw last; pass it by context.kept, which belongs to one batch"
    ensure(torch.allclose(losses[0], losses[1], equal_nan=True), said, "loss")
