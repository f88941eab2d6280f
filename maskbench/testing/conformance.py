"""The conformance suite: what every strategy owes to the harness and to fair comparison, for anybody's plugin.

A check is a function that raises AssertionError with what is wrong. Randomness, cost and host synchronisation are
checked by what the strategy does, not by a clock, so a report is the same on every machine.
"""

import copy
import dataclasses
import json
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maskbench.core.context import SIGNALS
from maskbench.core.grid import Grid
from maskbench.core.view import View, realised_ratio
from maskbench.errors import UsageError
from maskbench.strategy import REGISTRY, Strategy
from maskbench.testing.synthetic_batch import SQUARE, Batch, batch_for, tensors

WIDE = Grid(6, 10, 4)
GRIDS = (SQUARE, WIDE, Grid(7, 7, 8), Grid(14, 14, 2), Grid(1, 1, 8), Grid(1, 3, 8), Grid(2, 2, 8))
RATIO = 0.75  # at which the matched regime is checked; every strategy that serves a single ratio names it


@dataclass(frozen=True)
class Finding:
    """One check: its name, what it asks, and why it failed ("" where it passed)."""

    check: str
    asks: str
    failure: str = ""


@dataclass(frozen=True)
class Report:
    """What `check_strategy` found. Its text is for people; `passed` is True where no check failed."""

    strategy: Strategy
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return not any(finding.failure for finding in self.findings)

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            lines.append(f"{'FAIL' if finding.failure else 'ok  '}  {finding.check:12} {finding.asks}")
            if finding.failure:
                lines.append(f"      {'':12} -> {finding.failure}")
        failed = sum(bool(finding.failure) for finding in self.findings)
        verdict = "conforms" if not failed else f"fails {failed} of {len(self.findings)} checks"
        return "\n".join([*lines, f"{self.strategy.name} {verdict}"])


def check_strategy(strategy: Strategy | str) -> Report:
    """Every check on a strategy, by name or made, in its own regime and in the matched one."""
    if isinstance(strategy, str):
        strategy = REGISTRY.create(strategy)
    findings = []
    for check in CHECKS:
        failure = ""
        try:
            check(strategy)
        except AssertionError as error:
            failure = " ".join(str(error).split())
        except Exception as error:
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        findings.append(Finding(check.__name__.replace("_", " "), cast(str, check.__doc__), failure))
    return Report(strategy, tuple(findings))


def regimes(strategy: Strategy) -> list[Strategy]:
    """The strategy as it is, and in the matched regime where it serves RATIO."""
    try:
        return [strategy, strategy.matched(RATIO)]
    except UsageError:
        return [strategy]


def served(strategy: Strategy, grid: Grid, size: int = 8, channels: int = 3) -> Batch | None:
    """A batch on `grid`, None where the strategy refuses it with a ValueError, as it may."""
    try:
        batch = batch_for(strategy, size, grid, channels)
        batch.view(strategy)
    except ValueError as error:
        refusal = str(error)
    else:
        return batch
    assert refusal.strip(), f"refuses {grid} without a word"
    return None


def documented(strategy: Strategy) -> None:
    """it has a docstring, and names in `needs` only signals that exist"""
    assert (type(strategy).__doc__ or "").strip(), "no docstring; say what is hidden, why, and where it is published"
    unknown = sorted(strategy.needs - SIGNALS.keys())
    assert not unknown, f"needs {unknown}, which are no signals; there are {sorted(SIGNALS)}"


def parameters(strategy: Strategy) -> None:
    """parameters survive JSON, and numbers out of range are refused"""
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


def shapes(strategy: Strategy) -> None:
    """views have the right shapes, dtypes and parts on square, wide and tiny grids, with 1 to 5 channels"""
    for regime in regimes(strategy):
        seen = [grid for grid in GRIDS for channels in (1, 3, 5) if _well_formed(regime, grid, channels)]
        assert SQUARE in seen or Grid(14, 14, 2) in seen, "serves neither 8x8 nor 14x14 patches"
        assert WIDE in seen, "does not serve 6x10 patches; rows and columns may differ"


def _well_formed(strategy: Strategy, grid: Grid, channels: int) -> bool:
    batch = served(strategy, grid, channels=channels)
    if batch is None:
        return False
    view = batch.view(strategy)
    assert view.images.dtype == batch.images.dtype, f"view.images is {view.images.dtype}"
    for name, value in tensors(view).items():
        assert torch.isfinite(value.float()).all(), f"{name} is not finite on {grid}"
        assert name[:6] != "weight" or (value >= 0).all(), f"{name} is negative on {grid}"
    for part in (view.replaced, view.thrown):
        assert part is None or not (part & ~cast(Tensor, view.hidden)).any(), "replaced and thrown are parts of hidden"
    if view.replaced is not None and view.thrown is not None:
        assert not (view.replaced & view.thrown).any(), "replaced and thrown overlap"
    if view.length is not None:
        left = cast(Tensor, view.present).sum(1)
        assert (left == view.length).all(), f"length is {view.length}, but {left.tolist()} tokens are left on {grid}"
    return True


def ratio(strategy: Strategy) -> None:
    """matched(0.75) hides exactly that share of every image, and True means hidden"""
    if "ratio" not in strategy.parameters:
        return
    for grid in (SQUARE, WIDE):
        regime = regimes(strategy)[-1]
        if regime is strategy or (batch := served(regime, grid, 64)) is None:
            continue
        realised = realised_ratio(batch.view(regime), grid)
        expected = grid.count(RATIO) / grid.size
        low, high = realised.min().item(), realised.max().item()
        assert low == high == np.float32(expected), f"hides {low:.3f} to {high:.3f} of {grid}, not {expected:.3f}"


def loss(strategy: Strategy) -> None:
    """what is hidden or changed carries the loss, and what is thrown or replaced does not"""
    for regime in regimes(strategy):
        for batch in filter(None, (served(regime, grid) for grid in GRIDS[:4])):
            view = batch.view(regime)
            for term in view.terms:
                weight = cast(Tensor, term.weight)
                if term.warp is not None:
                    continue
                area = batch.grid.pixels(weight) if weight.ndim == 2 else weight
                changed = view.images != batch.images if view.hidden is None else batch.grid.pixels(_recovered(view))
                assert not (changed & ~(area > 0)).any(), "some of what is hidden or changed carries no loss"
                if view.hidden is not None and weight.ndim == 2:
                    assert not (weight.bool() & ~_recovered(view)).any(), "what is seen, replaced or thrown has a loss"


def _recovered(view: View) -> Tensor:
    return cast(Tensor, view.recovered)


def untouched(strategy: Strategy) -> None:
    """images and signals are not modified in place"""
    for regime in regimes(strategy):
        for batch in filter(None, (served(regime, grid) for grid in GRIDS[:4])):
            given = {"images": batch.images, **batch.signals}
            before = {name: value.clone() for name, value in given.items()}
            batch.view(regime)
            for name, value in given.items():
                assert torch.equal(value, before[name]), f"{name} is modified in place"


def generators(strategy: Strategy) -> None:
    """the global generators of torch, numpy and Python are left alone"""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        for regime in regimes(strategy):
            batch = _first_served(regime)
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(1)  # so that a strategy that seeds them itself is noticed
            before = _generator_states()
            batch.view(regime)
            for name, state in _generator_states().items():
                assert state == before[name], f"draws from {name}'s global generator; draw from the context"
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def _generator_states() -> dict[str, Any]:
    numpy = np.random.get_state(legacy=False)["state"]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numpy["key"].tolist(), numpy["pos"]),
        "Python": random.getstate(),
    }


def _first_served(strategy: Strategy, size: int = 64) -> Batch:
    batch = next(filter(None, (served(strategy, grid, size) for grid in GRIDS)), None)
    assert batch is not None, "serves none of the grids tried"
    return batch


def repeats(strategy: Strategy) -> None:
    """the same seed, epoch and sample give the same view"""
    for regime in regimes(strategy):
        batch = _first_served(regime)
        first, second = tensors(batch.view(regime)), tensors(batch.view(regime))
        for name, value in first.items():
            assert torch.equal(value, second[name]), f"{name} differs between two calls with the same seed"


def rows(strategy: Strategy) -> None:
    """a sample's view does not depend on which others are in its batch, on their order, or on their number"""
    for regime in regimes(strategy):
        batch = _first_served(regime)
        whole = tensors(batch.view(regime, step=9))
        parts = {"a slice": torch.arange(32, 64), "another order": torch.tensor([5, 40, 17]), "one": torch.tensor([50])}
        for told, chosen in parts.items():
            part = tensors(batch.take(chosen).view(regime, step=9))
            for name, value in whole.items():
                # Pixels may come from another image of the same group of 32, masks from nowhere else.
                if len(chosen) == 32 or name == "hidden" or value.ndim == 2:
                    same = torch.allclose(value[chosen].float(), part[name].float(), atol=1e-5)
                    assert same, f"{name} changes when the batch is {told} of it"


def independent(strategy: Strategy) -> None:
    """equal images with different numbers get different draws, unless scope is "batch"; so do seeds and epochs"""
    for regime in regimes(strategy):
        batch = _first_served(regime)
        signals = {name: value[:1].expand_as(value).contiguous() for name, value in batch.signals.items()}
        same = dataclasses.replace(batch, images=batch.images[:1].expand_as(batch.images).contiguous(), signals=signals)
        view = tensors(same.view(regime))
        others = [tensors(same.view(regime, **{name: 1})) for name in ("seed", "epoch")]
        changed = [any(not torch.equal(view[name], other[name]) for name in view) for other in others]
        assert changed[0] == changed[1], "draws change with one of seed and epoch, but not with the other"
        if not changed[0] or regime.parameters.get("scope") == "batch":
            continue  # it does not draw at all, or once for the batch
        drawn = torch.cat([value.reshape(len(value), -1).float() for value in view.values()], 1)
        assert (drawn != drawn[0]).any(), "all images get the same draw; use scope='batch' if that is meant"


def coverage(strategy: Strategy) -> None:
    """every patch is hidden in some draws and seen in others, unless covers_all is False"""
    for regime in regimes(strategy):
        batch = _first_served(regime, 512)
        recovered = torch.zeros(batch.grid.size)
        seen = torch.zeros(batch.grid.size)
        for seed in range(4):
            view = batch.view(regime, seed=seed)
            if view.hidden is None:
                return
            recovered += _recovered(view).sum(0)
            seen += (~view.hidden).sum(0)
        if regime.covers_all:
            for told, count in (("recovered", recovered), ("seen", seen)):
                never = (count == 0).nonzero()[:, 0].tolist()
                assert not never, f"patches {never} of {batch.grid} are never {told} in {4 * 512} draws"


def loops(strategy: Strategy) -> None:
    """no Python loop over images: as many function calls for 64 images as for 16"""
    for regime in regimes(strategy):
        few, many = (_calls(regime, _first_served(regime, size)) for size in (16, 64))
        assert many <= 1.05 * few, f"{few} function calls for 16 images, {many} for 64"


def _calls(strategy: Strategy, batch: Batch) -> int:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    batch.view(strategy)  # whatever is cached on first use
    sys.setprofile(count)
    try:
        batch.view(strategy)
    finally:
        sys.setprofile(None)
    return calls


def device(strategy: Strategy) -> None:
    """it stays on the images' device and never waits for it (no .item(), no sizes that depend on values)"""
    for regime in regimes(strategy):
        real = _first_served(regime, 8)
        for place in ("cpu", "meta"):
            module = None if real.module is None else copy.deepcopy(real.module).to(place)
            with FakeTensorMode(allow_non_fake_inputs=True):
                given = {name: torch.empty_like(value, device=place) for name, value in real.signals.items()}
                batch = dataclasses.replace(
                    real, images=torch.empty_like(real.images, device=place), signals=given, module=module,
                    index=torch.arange(8, device=place), rows=torch.arange(8, device=place),
                )  # fmt: skip
                for name, value in tensors(batch.view(regime)).items():
                    assert value.device.type == place, f"{name} is on {value.device.type}, the images on {place}"


CHECKS: tuple[Callable[[Strategy], None], ...] = (
    documented, parameters, shapes, ratio, loss, untouched, generators, repeats, rows, independent, coverage, loops,
    device,
)  # fmt: skip
