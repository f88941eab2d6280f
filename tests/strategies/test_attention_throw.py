"""AMT: three states drawn without replacement, in proportion to attention once the training has begun."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import View
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

WEIGHTS = (0.30, 0.05, 0.20, 0.10, 0.02, 0.15)  # of six patches; the rest of the attention is the CLS token's
GRIDS = (Grid(14, 14, 1), Grid(8, 8, 1), Grid(8, 16, 1), Grid(4, 4, 1))


def attention(images: int, tokens: int = 196) -> dict[str, Tensor]:
    drawn = torch.randn(images, tokens, generator=torch.Generator().manual_seed(3))
    return {"attention": 0.9 * (2 * drawn).softmax(1)}


def same(images: int, weights: tuple[float, ...] = WEIGHTS) -> dict[str, Tensor]:
    return {"attention": torch.tensor(weights).expand(images, -1)}


def parts(view: View) -> tuple[Tensor, Tensor, Tensor]:
    """To be recovered, thrown away, seen: each patch is one of the three, and only what is recovered is weighed."""
    assert view.hidden is not None and view.thrown is not None and view.recovered is not None
    first, thrown, seen = view.recovered, view.thrown, ~view.hidden
    assert (first.int() + thrown.int() + seen.int() == 1).all()
    assert view.terms[0].weight is not None and torch.equal(view.terms[0].weight, first.float())
    return first, thrown, seen


def law(weights: tuple[float, ...], predicted: int, hidden: int) -> dict[tuple[frozenset[int], frozenset[int]], float]:
    """Chance of each (recovered, thrown): the sum over the orders in which they are drawn without replacement."""
    chances: dict[tuple[frozenset[int], frozenset[int]], float] = {}
    for order in itertools.permutations(range(len(weights)), hidden):
        left, chance = sum(weights), 1.0
        for patch in order:
            chance *= weights[patch] / left
            left -= weights[patch]
        key = frozenset(order[:predicted]), frozenset(order[predicted:])
        chances[key] = chances.get(key, 0.0) + chance
    assert math.isclose(sum(chances.values()), 1)
    return chances


def follow(view: View, chances: dict[tuple[frozenset[int], frozenset[int]], float]) -> bool:
    """Chi-square; outcomes expected fewer than 5 times are pooled."""
    first, thrown, _ = parts(view)
    found = Counter(
        (frozenset(one.nonzero()[:, 0].tolist()), frozenset(two.nonzero()[:, 0].tolist()))
        for one, two in zip(first, thrown, strict=True)
    )
    assert set(found) <= set(chances)
    likely = [key for key, chance in chances.items() if len(first) * chance >= 5]
    counts = [*(found[key] for key in likely), 0]
    expected = [*(len(first) * chances[key] for key in likely), 0.0]
    counts[-1], expected[-1] = len(first) - sum(counts), len(first) - sum(expected)
    cells = slice(None) if expected[-1] > 1e-6 * len(first) else slice(-1)
    return stats.chisquare(counts[cells], expected[cells], sum_check=False).pvalue > 1e-4


@notices("flip")
def of_196_patches_89_are_recovered_78_thrown_and_29_seen(lab: Lab) -> None:
    # The common count, 196 - int(196 * .55) and 196 - int(196 * .15); the reference truncates to 88 and 166.
    for progress in (0.1, 1.0):
        view = lab.view("attention-throw", 64, signals=attention(64), progress=progress)
        first, thrown, seen = parts(view)
        assert (first.sum(1) == 89).all() and (thrown.sum(1) == 78).all() and (seen.sum(1) == 29).all()
        assert view.length == 29


@notices("flip", "shift", "share")
def patches_are_drawn_without_replacement_in_proportion_to_attention(lab: Lab) -> None:
    for predicted, hidden in ((1, 2), (2, 3), (2, 4)):
        view = lab.view(
            "attention-throw", 8000, Grid(2, 3, 1), signals=same(8000), progress=0.5,
            ratio=hidden / 6, predicted=predicted / 6,
        )  # fmt: skip
        assert follow(view, law(WEIGHTS, predicted, hidden))


@notices("flip", "share")
def before_the_start_three_quarters_are_masked_at_random_and_none_is_dropped(lab: Lab) -> None:
    for start, progress in ((0.1, 0.0), (0.1, 0.099), (0.6, 0.5)):
        for grid in GRIDS:
            view = lab.view("attention-throw", 2048, grid, signals=attention(2048, grid.size), start=start,
                            progress=progress)  # fmt: skip
            assert view.hidden is not None and view.thrown is None and view.length == grid.size // 4
            assert (view.hidden.sum(1) == grid.size - grid.size // 4).all()
            # A binomial of 2048 draws with chance 3/4: over 6 deviations once in 10^9.
            share = view.hidden.double().mean(0)
            assert ((share - 0.75).abs() <= 6 * math.sqrt(0.75 * 0.25 / 2048)).all()
            assert len(view.hidden.unique(dim=0)) > 1000  # of 1820 subsets on the smallest grid, 4 x 4
            assert torch.equal(view.terms[0].weight > 0, view.hidden)  # type: ignore[operator]


@notices("flip")
def from_the_start_on_attention_counts(lab: Lab) -> None:
    for start, progress in ((0.1, 0.1), (0.0, 0.0), (1.0, 1.0)):
        view = lab.view(
            "attention-throw", 8000, Grid(2, 3, 1), signals=same(8000), start=start, progress=progress,
            ratio=0.5, predicted=1 / 3,
        )  # fmt: skip
        assert follow(view, law(WEIGHTS, 2, 3)), (start, progress)


def draw_one_by_one(weights: np.ndarray, images: int, masked: int, dropped: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, N) bool twice: patches drawn one after the other, each in proportion to what is left."""
    rng = np.random.default_rng(8)
    left = np.tile(weights.astype(np.float64), (images, 1))
    states = np.zeros(left.shape, dtype=int)
    for drawn in range(masked + dropped):
        cumulated = left.cumsum(1)
        patch = (cumulated <= rng.random((images, 1)) * cumulated[:, -1:]).sum(1)
        states[np.arange(images), patch] = 1 if drawn < masked else 2
        left[np.arange(images), patch] = 0
    return states == 1, states == 2


@notices("flip", "shift", "share")
def shares_are_those_of_a_loop_that_draws_one_patch_after_the_other(lab: Lab) -> None:
    for grid in GRIDS:
        masked, hidden = (grid.size - int(grid.size * (1 - ratio) + 1e-9) for ratio in (0.45, 0.85))
        weights = attention(1, grid.size)["attention"][0]
        view = lab.view("attention-throw", 2048, grid, signals=same(2048, tuple(weights.tolist())), progress=0.5)
        loop = draw_one_by_one(weights.numpy(), 2048, masked, hidden - masked)
        for ours, theirs in zip(parts(view)[:2], loop, strict=True):
            assert (ours.sum(1) == int(theirs[0].sum())).all()
            # The difference of two binomials of 2048 draws: over 6 deviations once in 10^9, in any of 800 patches.
            one, other = ours.double().mean(0).numpy(), theirs.mean(0)
            chance = (one + other) / 2
            assert (abs(one - other) <= 6 * np.sqrt(2 * chance * (1 - chance) / 2048) + 1e-9).all()


@notices("flip", "shift", "share")
def the_most_attended_are_recovered_most_often_on_a_large_grid(lab: Lab) -> None:
    signals = same(4096, tuple(attention(1)["attention"][0].tolist()))
    first, _, _ = parts(lab.view("attention-throw", 4096, signals=signals, progress=1.0, predicted=0.005))
    # One patch of 196 is recovered, the first that is drawn: a binomial with its share of the attention.
    chance = signals["attention"][0].double() / signals["attention"][0].double().sum()
    sd = (chance * (1 - chance) / 4096).sqrt()
    assert ((first.double().mean(0) - chance).abs() <= 6 * sd + 2 / 4096).all()


@notices("flip", "shift")
def patches_without_attention_come_last(lab: Lab) -> None:
    signals = attention(256)
    signals["attention"][:, 100:] = 0
    first, thrown, seen = parts(lab.view("attention-throw", 256, signals=signals, progress=1.0))
    assert not first[:, 100:].any() and not seen[:, :100].any()
    assert (thrown[:, 100:].sum(1) == 67).all()


@notices("flip", "share")
def patches_without_attention_are_drawn_at_random_in_every_float_type(lab: Lab) -> None:
    """Of 96 patches without attention, 67 are dropped with the same chance: over 6 deviations once in 10^9."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        signals = attention(1024)
        signals["attention"][:, 100:] = 0
        view = lab.view("attention-throw", 1024, signals={"attention": signals["attention"].to(dtype)}, progress=1.0)
        share = parts(view)[1][:, 100:].double().mean(0)
        assert ((share - 67 / 96).abs() <= 6 * math.sqrt(67 / 96 * 29 / 96 / 1024)).all()


@notices("shift")
def the_scale_of_attention_does_not_matter(lab: Lab) -> None:
    signals = attention(256)
    plain = parts(Lab().view("attention-throw", 256, signals=signals, progress=1.0))
    scaled = parts(lab.view("attention-throw", 256, signals={"attention": 8 * signals["attention"]}, progress=1.0))
    differ = sum(int((one != other).sum()) for one, other in zip(plain, scaled, strict=True))
    assert differ <= 8  # single precision may exchange two of 50,176 patches


@notices("flip")
def matched_hides_exactly_three_quarters_and_keeps_the_shares_of_both_kinds(lab: Lab) -> None:
    matched = REGISTRY.create("attention-throw").matched(0.75)
    early = lab.view(REGISTRY.create("attention-throw").matched(0.6), 64, signals=attention(64))
    assert early.hidden is not None and (early.hidden.sum(1) == 118).all()
    view = lab.view(matched, 64, signals=attention(64), progress=1.0)
    first, thrown, _ = parts(view)
    assert view.length == 49
    assert (first.sum(1) == 78).all() and (thrown.sum(1) == 69).all()  # 196 - int(196 * (1 - .75 * .45 / .85))


@notices("flip")
def nothing_is_thrown_where_all_that_is_hidden_is_predicted(lab: Lab) -> None:
    first, thrown, seen = parts(
        lab.view("attention-throw", 64, signals=attention(64), progress=1.0, ratio=0.4, predicted=0.6)
    )
    assert not thrown.any() and (first.sum(1) == 79).all() and (seen.sum(1) == 117).all()


test_holds, test_notices = invariants_of(__name__)


def test_starts_after_the_end_are_refused() -> None:
    with pytest.raises(ValueError, match="start"):
        REGISTRY.create("attention-throw", start=1.1)
