"""EPM: a lattice at first, whole parts at last, and the published mixture of both in between."""

import itertools
import math
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.strategies.evolved_parts import EvolvedParts
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import TOKENS, Lab, invariants_of, notices

GRID, TINY = Grid(8, 8, 1), Grid(4, 4, 1)
MANY = {"first": 40, "last": 40}  # so many clusters that each of a few different features gets one, but for 1e-8


def features(images: int, part: list[int]) -> dict[str, Tensor]:
    """One orthogonal feature for each part, of every length."""
    length = torch.rand(images, len(part), 1, generator=torch.Generator().manual_seed(1)) + 0.5
    return {"features": length * 3 * torch.eye(8)[part]}


def shuffled(sizes: tuple[int, ...]) -> list[int]:
    """The part of each token: parts of these sizes, scattered over the grid."""
    ordered = [part for part, size in enumerate(sizes) for _ in range(size)]
    return np.random.default_rng(0).permutation(ordered).tolist()


def inside(hidden: Tensor, part: list[int]) -> Tensor:
    """(B, parts): how many of each part are hidden."""
    return torch.stack([hidden[:, torch.tensor(part) == number].sum(1) for number in range(max(part) + 1)], 1)


@notices("flip")
def counts_stay_the_same_over_the_training(lab: Lab) -> None:
    signals = {"features": torch.randn(16, 196, 16, generator=torch.Generator().manual_seed(1))}
    for progress in (0.0, 0.3, 1.0):
        view = lab.view("evolved-parts", 16, signals=signals, progress=progress)
        assert view.hidden is not None and view.length == 49
        assert (view.hidden.sum(1) == 147).all()


@notices("flip")
def at_the_beginning_the_batch_shares_one_of_four_lattices(lab: Lab) -> None:
    places = list(itertools.product(range(2), repeat=2))
    lattices = [
        bytes((row % 2, col % 2) != place for row in range(4) for col in range(4)) for place in places
    ]  # of a grid of 4 x 4, each with one visible place of every 2 x 2
    signals = features(3, shuffled((4, 4, 4, 4)))
    batches = [lab.hidden("evolved-parts", 3, TINY, signals=signals, step=step).numpy() for step in range(120)]
    assert all((batch == batch[0]).all() for batch in batches)
    found = Counter(batch[0].tobytes() for batch in batches)
    assert set(found) <= set(lattices)
    assert stats.chisquare([found[lattice] for lattice in lattices]).pvalue > 1e-4


@notices("flip", "shift", "share")
def at_the_end_whole_parts_are_hidden_in_random_order(lab: Lab) -> None:
    part = shuffled((16, 16, 16, 16))
    hidden = lab.hidden("evolved-parts", 512, GRID, signals=features(512, part), progress=1.0, **MANY)
    found = inside(hidden, part)
    assert ((found == 0) | (found == 16)).all() and (found.sum(1) == 48).all()
    assert stats.chisquare((found == 0).sum(0).numpy()).pvalue > 1e-4


@notices("flip", "shift", "share")
def one_part_is_cut_where_whole_ones_do_not_fit(lab: Lab) -> None:
    sizes = (2, 3, 5, 6)
    part = shuffled(sizes)
    law = Counter[tuple[int, ...]]()
    for order in itertools.permutations(range(4)):
        left, taken = 12, [0] * 4
        for number in order:
            taken[number] = min(left, sizes[number])
            left -= taken[number]
        law[tuple(taken)] += 1
    hidden = lab.hidden("evolved-parts", 2048, TINY, signals=features(2048, part), progress=1.0, **MANY)
    found = Counter(map(tuple, inside(hidden, part).tolist()))
    assert set(found) <= set(law)
    expected = [2048 * ways / 24 for ways in law.values()]
    assert stats.chisquare([found[taken] for taken in law], expected).pvalue > 1e-4
    # Which patches of a part are hidden is random: binomials with the part's share in each image.
    share = (inside(hidden, part).double() / torch.tensor(sizes))[:, part]
    sd = (share * (1 - share)).sum(0).sqrt()
    assert ((hidden.double() - share).sum(0).abs() <= 5 * sd).all()


@cache
def mixture(weight: float, draws: int = 40_000) -> dict[tuple[int, ...], float]:
    """Chances of how many are hidden in each of 4 parts of 4 patches, one at each place of a 2 x 2 window, sorted:
    the 12 highest of (1 - weight) * the place's draw + weight * the part's draw."""
    draw = np.random.default_rng(0)
    place, part = draw.random((draws, 1, 4)), draw.random((draws, 4, 1))
    scores = ((1 - weight) * place + weight * part).reshape(draws, 16)
    hidden = (scores.argsort(1).argsort(1) >= 4).reshape(draws, 4, 4).sum(2)
    return {key: count / draws for key, count in Counter(map(tuple, np.sort(hidden, 1).tolist())).items()}


@notices("shift")
def in_between_place_and_part_are_mixed_by_the_root_of_progress(lab: Lab) -> None:
    windows = [token // 4 // 2 * 2 + token % 4 // 2 for token in range(16)]  # a part is a window: one patch a place
    signals = features(1, windows)
    for progress, weight in ((0.04, 0.2), (0.25, 0.5)):
        found = Counter[tuple[int, ...]]()
        for step in range(200):
            hidden = lab.hidden("evolved-parts", 1, TINY, signals=signals, progress=progress, seed=step, step=step)
            found[tuple(sorted(inside(hidden, windows)[0].tolist()))] += 1
        law = mixture(weight)
        assert set(found) <= set(law)
        likely = [key for key, share in law.items() if 200 * share >= 5]
        counts, expected = [found[key] for key in likely], [200 * law[key] for key in likely]
        rest = 200 - sum(expected)
        if rest > 1e-9:  # pooled with the least likely of the others
            counts[-1], expected[-1] = counts[-1] + 200 - sum(counts), expected[-1] + rest
        assert stats.chisquare(counts, expected).pvalue > 1e-4


@notices("shift")
def in_between_the_batch_shares_the_order_of_places(lab: Lab) -> None:
    part = shuffled((16, 16, 16, 16))
    place = torch.tensor([token // 8 % 2 * 2 + token % 2 for token in range(64)])
    for step in range(4):
        given = {"signals": features(64, part), "progress": 0.25, "step": step}
        hidden = lab.hidden("evolved-parts", 64, GRID, **given, **MANY)
        before: set[tuple[int, int]] = set()
        for (one, other), number in itertools.product(itertools.permutations(range(4), 2), range(4)):
            chosen = torch.tensor(part) == number
            if (hidden[:, chosen & (place == one)].any(1) & ~hidden[:, chosen & (place == other)].all(1)).any():
                before.add((one, other))
        # A part's patches at one place go before those at another in every image, or in none.
        assert before and all((other, one) not in before for one, other in before)


@notices("flip", "shift", "share")
def patches_that_look_alike_share_their_fate(lab: Lab) -> None:
    part = shuffled((8,) * 8)
    noise = 0.6 * torch.randn(512, 64, 8, generator=torch.Generator().manual_seed(2))
    signals = {"features": features(512, part)["features"] + noise}
    hidden = lab.hidden("evolved-parts", 512, GRID, signals=signals, progress=1.0)
    alike = torch.tensor(part)[:, None] == torch.tensor(part)
    apart = ~torch.eye(64, dtype=torch.bool)
    agree = (hidden[:, :, None] == hidden[:, None]).double()
    # Independent fates of 3/4 agree with probability 5/8.
    assert agree[:, alike & apart].mean() > 0.75 > 0.66 > agree[:, ~alike].mean()
    assert (hidden.double().mean(0) - 0.75).abs().max() < 6 * (0.75 * 0.25 / 512) ** 0.5  # binomial


@notices("flip")
def matched_hides_exactly_three_quarters(lab: Lab) -> None:
    signals = {"features": torch.randn(16, 196, 16, generator=torch.Generator().manual_seed(1))}
    view = lab.view(REGISTRY.create("evolved-parts", ratio=0.5).matched(0.75), 16, TOKENS, signals=signals)
    assert view.hidden is not None and view.length == 49
    assert (view.hidden.sum(1) == 147).all()


test_holds, test_notices = invariants_of(__name__)


def parts(tokens: Tensor, progress: float, **parameters: float) -> Tensor:
    strategy = REGISTRY.create("evolved-parts", **parameters)
    assert isinstance(strategy, EvolvedParts)
    index = torch.arange(len(tokens))
    return strategy.cluster_tokens(
        Context(GRID, index, seed=0, epoch=0, step=0, progress=progress, signals={"features": tokens})
    )


def test_parts_fall_in_number_from_40_to_10_and_up_to_two_more() -> None:
    different = torch.eye(64).expand(150, -1, -1)  # no two patches alike: no cluster is left without a patch
    for progress, least in ((0.0, 40), (0.5, 25), (1.0, 10)):
        numbers = [len(row.unique()) for row in parts(different, progress)]
        found = [numbers.count(number) for number in range(least, least + 3)]
        assert sum(found) == 150
        assert stats.chisquare(found).pvalue > 1e-4


def test_parts_gather_patches_around_their_mean() -> None:
    tokens = torch.randn(16, 64, 8, generator=torch.Generator().manual_seed(1))
    directions = (tokens / tokens.norm(dim=-1, keepdim=True)).double()
    found = parts(tokens, 1.0, kappa=400.0)
    nearest = 0
    for row, of in zip(directions, found, strict=True):
        numbers = of.unique()
        means = torch.stack([row[of == number].sum(0) for number in numbers])
        best = numbers[(row @ (means / means.norm(dim=-1, keepdim=True)).T).argmax(1)]
        nearest += int((best == of).sum())
    # A fixed point but for the softness of the clusters and for rounds that have not converged.
    assert nearest > 0.97 * math.prod(found.shape)


def test_odd_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="2x2"):
        Lab().view("evolved-parts", 2, Grid(7, 8, 1), signals={"features": torch.ones(2, 56, 4)})
