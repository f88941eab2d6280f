"""SBAM's salience by numpy, and the law of its noisy order."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices

SMALL = Grid(4, 4, 1)


def embeddings(images: int, tokens: int = 196, scale: float = 0.35) -> dict[str, Tensor]:
    """Embeddings with a few directions in common, so that some tokens draw the softmax of many others."""
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randn(images, tokens, 32, generator=generator)
    common = torch.randn(images, tokens, 2, generator=generator) @ torch.randn(images, 2, 32, generator=generator)
    return {"embeddings": scale * (drawn + common)}


def same(images: int, tokens: int = 16) -> dict[str, Tensor]:
    """One image's embeddings over and over."""
    return {"embeddings": embeddings(1, tokens)["embeddings"].expand(images, -1, -1)}


def salience(tokens: Tensor) -> np.ndarray:
    """(N,) of an image's tokens (N, D): what each receives of the softmax of every other, from 0 to 1."""
    x = tokens.double().numpy()
    received = np.zeros(len(x))
    for query in x:
        product = x @ query
        weight = np.exp(product - product.max())
        received += weight / weight.sum()
    return (received - received.min()) / (received.max() - received.min())


@notices("flip", "shift")
def without_noise_the_most_salient_are_hidden(lab: Lab) -> None:
    signals = embeddings(24)
    for ratio, count in ((0.75, 147), (0.6, 118)):
        view = lab.view("salience", 24, signals=signals, noise=0.0, ratio=ratio)
        assert view.hidden is not None and view.length == 196 - count
        for tokens, mask in zip(signals["embeddings"], view.hidden, strict=True):
            most = np.argsort(-salience(tokens))[:count]
            assert set(mask.nonzero()[:, 0].tolist()) == set(most.tolist())


@notices("flip")
def counts_are_the_same_in_every_image(lab: Lab) -> None:
    view = lab.view("salience", 64, signals=embeddings(64))
    assert view.hidden is not None and view.length == 49
    assert (view.hidden.sum(1) == 147).all()


@notices("shift")
def another_order_of_tokens_is_hidden_in_that_order(lab: Lab) -> None:
    signals = embeddings(24)
    order = torch.randperm(196, generator=torch.Generator().manual_seed(2))
    plain = Lab().hidden("salience", 24, signals=signals, noise=0.0)
    moved = lab.hidden("salience", 24, signals={"embeddings": signals["embeddings"][:, order]}, noise=0.0)
    assert (plain[:, order] != moved).sum() <= 2  # single precision may exchange two at the cut


@notices("flip", "shift")
def the_most_salient_is_hidden_before_any_of_half_its_salience(lab: Lab) -> None:
    signals = embeddings(16)
    scores = [salience(tokens) for tokens in signals["embeddings"]]
    found = 0
    for seed in range(8):
        hidden = lab.hidden("salience", 16, signals=signals, ratio=0.1, seed=seed)
        for score, mask in zip(scores, hidden, strict=True):
            # Noise is below .5: whoever is hidden is less than .5 below everyone shown.
            assert score[mask.numpy()].min() > score[~mask.numpy()].max() - 0.5 - 1e-5
            found += int(score[mask.numpy()].min() < score[~mask.numpy()].max())
    assert found > 64  # and the noise does change the order


@notices("flip", "shift", "share")
def noise_gives_each_token_the_chance_of_the_published_rule(lab: Lab) -> None:
    draw, images = np.random.default_rng(0), 4096
    for noise in (0.5, 2.0):
        signals = same(images)
        noisy = salience(signals["embeddings"][0]) + noise * draw.random((images, 16))
        reference = np.argsort(np.argsort(noisy, 1), 1) >= 8  # the 8 smallest of 16 are kept
        hidden = lab.hidden("salience", images, SMALL, signals=signals, ratio=0.5, noise=noise).double().mean(0)
        expected = torch.from_numpy(reference.mean(0))
        share = (hidden + expected) / 2
        sd = (share * (1 - share) * 2 / images).sqrt()  # of the difference of two binomials
        assert ((hidden - expected).abs() <= 5 * sd).all()


@notices("flip", "share")
def tokens_of_equal_salience_are_hidden_at_random(lab: Lab) -> None:
    for value in (0.0, 1.0, 0.3):
        signals = {"embeddings": torch.full((2048, 49, 8), value)}
        hidden = lab.hidden("salience", 2048, Grid(7, 7, 1), signals=signals)
        assert (hidden.sum(1) == 37).all()
        sd = (37 * 12 / 49**2 / 2048) ** 0.5  # binomial
        assert (hidden.double().mean(0) - 37 / 49).abs().max() < 5 * sd, value


@notices("flip", "shift")
def embeddings_as_long_as_real_ones_stay_in_order(lab: Lab) -> None:
    # Logits are squared lengths, hundreds at 768 dimensions: a softmax close to one-hot on the token itself.
    signals = embeddings(24, scale=4.0)
    lengths = signals["embeddings"].square().sum(-1)
    assert lengths.max() > 1000
    hidden = lab.hidden("salience", 24, signals=signals, noise=0.0, ratio=0.05)
    for tokens, mask in zip(signals["embeddings"], hidden, strict=True):
        score = salience(tokens)
        assert score[mask.numpy()].min() >= score[~mask.numpy()].max() - 1e-4  # single precision


@notices("flip")
def half_precision_is_raised_before_the_softmax(lab: Lab) -> None:
    signals = {"embeddings": embeddings(24)["embeddings"].bfloat16()}
    hidden = lab.hidden("salience", 24, signals=signals, noise=0.0)
    for tokens, mask in zip(signals["embeddings"], hidden, strict=True):
        most = np.argsort(-salience(tokens))[:147]
        assert set(mask.nonzero()[:, 0].tolist()) == set(most.tolist())


@notices("flip", "shift")
def an_adaptive_ratio_follows_each_images_share_of_salient_tokens(lab: Lab) -> None:
    signals = embeddings(64)
    for adaptive, delta in ((0.1, 0.5), (0.2, 0.1), (0.2, 0.25)):
        hidden = lab.hidden("salience", 64, signals=signals, adaptive=adaptive, delta=delta, noise=0.0)
        share = hidden.double().mean(1)
        assert share.min() >= 0.75 - adaptive and share.max() <= 0.75 + adaptive + 1 / 196
        assert len(share.unique()) > 1
        for tokens, mask in zip(signals["embeddings"], hidden, strict=True):
            score = salience(tokens)
            salient = int((score > delta).sum()) / 196
            kept = 196 * (1 - (0.75 - adaptive + 2 * adaptive * salient))
            count = int(mask.sum())
            assert count in {196 - int(kept - 1e-4), 196 - int(kept + 1e-4)}  # whole numbers have an invariant below
            assert set(mask.nonzero()[:, 0].tolist()) == set(np.argsort(-score)[:count].tolist())


@notices("flip")
def an_adaptive_ratio_that_keeps_a_whole_number_keeps_it(lab: Lab) -> None:
    for salient in range(3, 60, 5):
        # One direction for the salient tokens, none for the others, which attend to all alike.
        tokens = torch.zeros(1, 196, 4)
        tokens[:, :salient, 0] = 2
        assert ((salience(tokens[0]) > 0.5) == (np.arange(196) < salient)).all()
        # The share kept is .25 + .1 - .2 * salient / 196: of 196 patches 68.6 - .2 * salient.
        hidden = lab.hidden("salience", 1, signals={"embeddings": tokens}, adaptive=0.1, delta=0.5)
        assert int((~hidden).sum()) == 68 - salient // 5, salient


@notices("flip")
def matched_hides_exactly_three_quarters(lab: Lab) -> None:
    strategy = REGISTRY.create("salience", adaptive=0.2).matched(0.75)
    view = lab.view(strategy, 64, signals=embeddings(64))
    assert view.hidden is not None and view.length == 49
    assert (view.hidden.sum(1) == 147).all()


@notices("flip", "share")
def noise_alone_is_uniform_over_subsets(lab: Lab) -> None:
    signals = {"embeddings": torch.zeros(8000, 6, 4)}
    hidden = lab.hidden("salience", 8000, Grid(2, 3, 1), signals=signals, ratio=1 / 3)
    seen = [tuple(row.nonzero()[:, 0].tolist()) for row in hidden]
    pairs = [(one, two) for one in range(6) for two in range(one + 1, 6)]
    assert set(seen) <= set(pairs)
    assert stats.chisquare([seen.count(pair) for pair in pairs]).pvalue > 1e-4


test_holds, test_notices = invariants_of(__name__)


def test_an_adaptive_ratio_of_half_or_more_is_refused() -> None:
    with pytest.raises(ValueError, match="adaptive"):
        REGISTRY.create("salience", adaptive=0.5)
