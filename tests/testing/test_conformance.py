"""Every check of the conformance suite can fail, and only for the reason that it names."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from maskbench.strategy import REGISTRY, Context, Ratio, Strategy, Term, View, dataclass, hide
from maskbench.testing.checks import CHECKS
from maskbench.testing.conformance import check_strategy

Act = Callable[["Plugin", Tensor, Context], View]


@dataclass(frozen=True, kw_only=True)
class Plugin(Strategy):
    """Random masking, correct."""

    ratio: Ratio = 0.75

    def __call__(self, images: Tensor, context: Context) -> View:
        count = context.grid.count(self.ratio)
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)


def sound(plugin: Plugin, images: Tensor, context: Context) -> View:
    return Plugin.__call__(plugin, images, context)


def broken(act: Act) -> Strategy:
    """The plugin, but that it acts like this."""
    name = "Broken"
    body = {"__call__": act, "__doc__": "Broken.", "name": "broken"}
    return dataclass(frozen=True, kw_only=True)(type(name, (Plugin,), body))()


def loops_over_images(plugin: Plugin, images: Tensor, context: Context) -> View:
    scores = context.uniform(context.grid.size)
    count = context.grid.count(plugin.ratio)
    return View(images, torch.cat([hide(row[None], count) for row in scores]), length=context.grid.size - count)


def flips_polarity(plugin: Plugin, images: Tensor, context: Context) -> View:
    hidden = sound(plugin, images, context).hidden
    assert hidden is not None
    return View(images, ~hidden)


def modifies_images(plugin: Plugin, images: Tensor, context: Context) -> View:
    images.mul_(0.5)
    return sound(plugin, images, context)


def draws_from_torch(plugin: Plugin, images: Tensor, context: Context) -> View:
    torch.manual_seed(0)
    return sound(plugin, images + 0 * torch.rand(()), context)


def draws_from_numpy(plugin: Plugin, images: Tensor, context: Context) -> View:
    return sound(plugin, images + 0 * float(np.random.rand()), context)


def draws_from_random(plugin: Plugin, images: Tensor, context: Context) -> View:
    return sound(plugin, images + 0 * random.random(), context)


def differs_each_time(plugin: Plugin, images: Tensor, context: Context) -> View:
    generator = torch.Generator()
    generator.seed()
    scores = torch.rand(len(images), context.grid.size, generator=generator)
    return View(images, hide(scores, context.grid.count(plugin.ratio)))


def depends_on_the_batch(plugin: Plugin, images: Tensor, context: Context) -> View:
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(len(images), context.grid.size, generator=generator)
    return View(images, hide(scores + context.uniform(1), context.grid.count(plugin.ratio)))


def shares_one_draw(plugin: Plugin, images: Tensor, context: Context) -> View:
    scores = context.uniform(context.grid.size, scope="batch").contiguous()
    return View(images, hide(scores, context.grid.count(plugin.ratio)))


def spares_the_last_patch(plugin: Plugin, images: Tensor, context: Context) -> View:
    scores = context.uniform(context.grid.size).clone()
    scores[:, -1] = -1
    return View(images, hide(scores, context.grid.count(plugin.ratio)))


def asks_for_a_value(plugin: Plugin, images: Tensor, context: Context) -> View:
    if images.sum().item() > 1e30:
        raise AssertionError
    return sound(plugin, images, context)


def stays_on_the_cpu(plugin: Plugin, images: Tensor, context: Context) -> View:
    return sound(plugin, images + torch.zeros(images.shape[2:], device="cpu"), context)


def lies_about_length(plugin: Plugin, images: Tensor, context: Context) -> View:
    return replace(sound(plugin, images, context), length=3)


def weighs_what_is_seen(plugin: Plugin, images: Tensor, context: Context) -> View:
    view = sound(plugin, images, context)
    return replace(view, terms=(Term(weight=torch.ones(len(images), context.grid.size, device=images.device)),))


def returns_floats(plugin: Plugin, images: Tensor, context: Context) -> View:
    view = sound(plugin, images, context)
    assert view.hidden is not None
    return replace(view, hidden=view.hidden.float())


def square_grids_only(plugin: Plugin, images: Tensor, context: Context) -> View:
    if context.grid.rows != context.grid.cols:
        raise ValueError(f"{context.grid} is not square")
    return sound(plugin, images, context)


def crashes_on_small_grids(plugin: Plugin, images: Tensor, context: Context) -> View:
    if context.grid.size < 4:
        raise IndexError("index out of range")
    return sound(plugin, images, context)


BROKEN: list[tuple[Act, str]] = [
    (loops_over_images, "batching"),
    (flips_polarity, "ratio"),
    (modifies_images, "inputs unchanged"),
    (draws_from_torch, "global generators"),
    (draws_from_numpy, "global generators"),
    (draws_from_random, "global generators"),
    (differs_each_time, "repeatability"),
    (depends_on_the_batch, "row independence"),
    (shares_one_draw, "distinct draws"),
    (spares_the_last_patch, "coverage"),
    (asks_for_a_value, "device"),
    (stays_on_the_cpu, "device"),
    (lies_about_length, "shapes"),
    (weighs_what_is_seen, "loss weights"),
    (returns_floats, "shapes"),
    (square_grids_only, "shapes"),
    (crashes_on_small_grids, "shapes"),
]


def failures(strategy: Strategy) -> set[str]:
    return {finding.check for finding in check_strategy(strategy).findings if finding.failure}


def test_a_sound_plugin_conforms() -> None:
    report = check_strategy(Plugin())
    assert report.passed, f"\n{report}"
    assert str(report).endswith("conforms")


@pytest.mark.parametrize(("act", "check"), BROKEN, ids=[act.__name__ for act, _ in BROKEN])
def test_a_broken_plugin_fails_the_check_that_guards_it(act: Act, check: str) -> None:
    report = check_strategy(broken(act))
    assert check in {finding.check for finding in report.findings if finding.failure}, f"\n{report}"
    assert not report.passed
    assert "FAIL" in str(report) and "fails" in str(report)


def test_parameters_without_a_range_fail() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unbounded(Plugin):
        """Has a parameter that takes any number."""

        strength: float = 1.0

    assert failures(Unbounded()) == {"parameters"}


def test_a_missing_docstring_and_an_unknown_signal_fail() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Silent(Plugin):
        needs = frozenset({"depth"})

    Silent.__doc__ = None
    assert failures(Silent()) == {"documentation"}


def test_every_check_has_a_plugin_that_fails_it() -> None:
    known = {check for _, check in BROKEN} | {"parameters", "documentation"}
    assert known == {check.__name__.removeprefix("check_").replace("_", " ") for check in CHECKS}


def test_names_are_accepted() -> None:
    assert check_strategy("random").strategy == REGISTRY.create("random")
