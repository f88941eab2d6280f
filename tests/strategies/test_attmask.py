"""AttMask: who is hidden is the attention's order to the patch, how many follows the published draws."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.api import degrade
from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

NAMES = ("attmask-high", "attmask-low", "attmask-hint")


def attention(images: int, tokens: int = 196) -> dict[str, Tensor]:
    """Attention that sums to less than 1 over the patches, since the CLS token keeps a part; without ties."""
    drawn = torch.randn(images, tokens, generator=torch.Generator().manual_seed(3))
    return {"attention": 0.9 * drawn.softmax(1)}


def ranked(mask: Tensor, signals: dict[str, Tensor]) -> Tensor:
    """(B, N): the mask with the most attended token first."""
    order = np.argsort(-signals["attention"].numpy(), 1)
    return torch.from_numpy(np.take_along_axis(mask.numpy(), order, 1))


@notices("flip", "shift")
def high_hides_the_most_attended_and_low_the_least(lab: Lab) -> None:
    signals = attention(64)
    # The common count: 196 - int(196 * .7) = 59, one more than the reference's int(196 * .3).
    for ratio, count in ((0.3, 59), (0.1, 20), (0.5, 98), (0.75, 147)):
        high = lab.view("attmask-high", 64, signals=signals, ratio=ratio, masked=1.0)
        low = lab.view("attmask-low", 64, signals=signals, ratio=ratio, masked=1.0)
        assert high.hidden is not None and low.hidden is not None and high.length == low.length == 196 - count
        for row, most, least in zip(signals["attention"].tolist(), high.hidden, low.hidden, strict=True):
            order = sorted(range(196), key=row.__getitem__, reverse=True)
            assert set(most.nonzero()[:, 0].tolist()) == set(order[:count])
            assert set(least.nonzero()[:, 0].tolist()) == set(order[-count:])


@notices("flip", "shift")
def high_and_low_hide_an_end_of_the_order_whatever_is_drawn(lab: Lab) -> None:
    signals = attention(256)
    for scope in ("image", "batch"):
        high = ranked(lab.hidden("attmask-high", 256, signals=signals, scope=scope), signals)
        low = ranked(lab.hidden("attmask-low", 256, signals=signals, scope=scope), signals)
        for mask in (high, low.flip(1)):
            assert not (mask[:, 1:] & ~mask[:, :-1]).any()
            count = mask.sum(1)
            assert ((count == 0) | (count >= 20) & (count <= 98)).all()


@notices("flip", "share")
def half_of_the_images_stay_whole(lab: Lab) -> None:
    signals = attention(2048)
    for name in NAMES:
        for masked, sd in ((0.5, 0.5), (0.2, 0.4)):
            some = lab.hidden(name, 2048, signals=signals, masked=masked).any(1)
            assert abs(float(some.double().mean()) - masked) < 5 * sd / 2048**0.5  # binomial
        assert lab.hidden(name, 2048, signals=signals, masked=1.0).any(1).all()


def uniform_counts(counts: list[int]) -> bool:
    """Counts of ratios uniform in (.1, .5): c stands for ratios in ((c - 1) / 196, c / 196], from 20 to 98."""
    low, high = 19.6, 98.0
    edges = [low, *range(26, 98, 6), high]
    found = [sum(one < count <= other for count in counts) for one, other in itertools.pairwise([19, *edges[1:]])]
    assert sum(found) == len(counts)
    expected = [len(counts) * (other - one) / (high - low) for one, other in itertools.pairwise(edges)]
    return stats.chisquare(found, expected).pvalue > 1e-4


@notices("flip")
def one_ratio_is_drawn_uniformly_for_a_batch(lab: Lab) -> None:
    signals = attention(3)
    for name in ("attmask-high", "attmask-low"):
        batches = [lab.hidden(name, 3, signals=signals, masked=1.0, step=step).sum(1) for step in range(600)]
        assert all(len(batch.unique()) == 1 for batch in batches)
        assert uniform_counts([int(batch[0]) for batch in batches])


@notices("flip")
def images_that_are_not_left_whole_share_the_count(lab: Lab) -> None:
    signals = attention(64)
    for name in NAMES:
        counts = lab.hidden(name, 64, signals=signals).sum(1)
        assert len(counts[counts > 0].unique()) == 1 and (counts == 0).any()


@notices("flip", "share")
def scope_image_draws_a_ratio_for_each_image(lab: Lab) -> None:
    signals = attention(4096)
    for name in ("attmask-high", "attmask-low"):
        counts = lab.hidden(name, 4096, signals=signals, masked=1.0, scope="image").sum(1)
        assert uniform_counts(counts.tolist())


@notices("flip", "shift")
def hint_reveals_some_of_the_19_most_attended_and_nothing_else(lab: Lab) -> None:
    signals = attention(256)
    hidden = ranked(lab.hidden("attmask-hint", 256, signals=signals, ratio=0.3, masked=1.0), signals)
    assert ((~hidden[:, :19]).sum(1) == 5).all()  # int(196 * .1 * .3)
    assert hidden[:, 19:59].all() and not hidden[:, 59:].any()


@notices("flip", "share")
def hint_reveals_a_uniform_subset_of_the_most_attended(lab: Lab) -> None:
    signals = attention(4096)
    hidden = ranked(lab.hidden("attmask-hint", 4096, signals=signals, ratio=0.3, masked=1.0), signals)
    revealed = (~hidden[:, :19]).double().mean(0)
    assert (revealed - 5 / 19).abs().max() < 5 * (5 * 14 / 19**2 / 4096) ** 0.5  # binomials
    few = {"attention": attention(1, 20)["attention"].expand(6000, -1)}
    hidden = ranked(lab.hidden("attmask-hint", 6000, Grid(4, 5, 1), signals=few, ratio=0.5, shown=0.2, masked=1.0), few)
    found = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in ~hidden[:, :4])  # int(20 * .2 * .5) of 4
    pairs = list(itertools.combinations(range(4), 2))
    assert set(found) <= set(pairs)
    assert stats.chisquare([found[pair] for pair in pairs]).pvalue > 1e-4


@notices("flip", "shift")
def hint_draws_how_many_it_reveals_independently_of_the_ratio(lab: Lab) -> None:
    signals = attention(3)
    numbers, counts = [], []
    for step in range(600):
        hidden = ranked(lab.hidden("attmask-hint", 3, signals=signals, masked=1.0, step=step), signals)
        revealed, count = int((~hidden[0, :19]).sum()), int(hidden[0].nonzero().max()) + 1
        assert ((~hidden[:, :19]).sum(1) == revealed).all() and 1 <= revealed <= 9
        assert hidden[:, 19:count].all() and not hidden[:, count:].any()
        numbers.append(revealed)
        counts.append(count)
    # int(19.6 * r), r uniform in (.1, .5): 1.96 to 9.8.
    edges = [1.96, *range(2, 10), 9.8]
    expected = [600 * (other - one) / 7.84 for one, other in itertools.pairwise(edges)]
    found = [numbers.count(number) for number in range(1, 10)]
    # One and two are pooled: .04 / 7.84 of 600 is 3.
    assert stats.chisquare([sum(found[:2]), *found[2:]], [sum(expected[:2]), *expected[2:]]).pvalue > 1e-4
    assert uniform_counts(counts)
    assert stats.spearmanr(numbers, counts).pvalue > 1e-4


@notices("flip", "shift")
def exact_hints_hide_as_many_more(lab: Lab) -> None:
    signals = attention(64)
    view = lab.view("attmask-hint", 64, signals=signals, ratio=0.3, masked=1.0, exact=True)
    assert view.hidden is not None and view.length == 137
    hidden = ranked(view.hidden, signals)
    assert ((~hidden[:, :19]).sum(1) == 5).all()
    assert hidden[:, 19:64].all() and not hidden[:, 64:].any()


@notices("flip")
def exact_hints_keep_the_count_where_the_hints_reach_beyond_it(lab: Lab) -> None:
    signals = attention(64)
    view = lab.view("attmask-hint", 64, signals=signals, ratio=0.25, shown=0.5, masked=1.0, exact=True)
    assert view.hidden is not None and view.length == 147
    assert (view.hidden.sum(1) == 49).all()


@notices("flip")
def matched_hides_exactly_three_quarters_of_every_image(lab: Lab) -> None:
    signals = attention(64)
    for name in NAMES:
        view = lab.view(REGISTRY.create(name).matched(0.75), 64, signals=signals)
        assert view.hidden is not None and view.length == 49
        assert (view.hidden.sum(1) == 147).all()


@notices("shift")
def only_the_order_of_attention_matters(lab: Lab) -> None:
    signals = attention(64)
    for name in NAMES:
        plain = Lab().hidden(name, 64, signals=signals)
        for other in (signals["attention"].double() + 3, 7 * signals["attention"], signals["attention"].double().log()):
            assert torch.equal(plain, lab.hidden(name, 64, signals={"attention": other}))


test_holds, test_notices = invariants_of(__name__)


def test_hints_of_a_bad_share_are_refused() -> None:
    for shown in (0, 1, 1.5):
        with pytest.raises(ValueError, match="shown"):
            REGISTRY.create("attmask-hint", shown=shown)


def test_degrade_takes_the_attention() -> None:
    given = attention(50)["attention"]
    view = degrade("attmask-high", torch.zeros(50, 1, 224, 224), patch_size=16, attention=given, masked=1.0, ratio=0.3)
    for row, hidden in zip(given, view.hidden, strict=True):
        assert set(hidden.nonzero()[:, 0].tolist()) == set(row.argsort(descending=True)[:59].tolist())
    assert view.length == 196 - 59


def test_missing_attention_is_named() -> None:
    with pytest.raises(ValueError, match="attmask-high needs attention="):
        degrade("attmask-high", torch.zeros(2, 1, 224, 224), patch_size=16)
