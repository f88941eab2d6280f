"""HPM: the hardest patches are certain, the rest uniform, and the share of the hardest grows with progress."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.step_output import StepOutput
from maskbench.core.view import complete
from maskbench.objective import Examples
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices
from tests.helpers.learned_strategies import GRID, create_ready, head, images, split_loss


def losses(images: int, tokens: int = 196) -> dict[str, Tensor]:
    drawn = torch.randn(images, tokens, generator=torch.Generator().manual_seed(3))
    return {"patch_loss": drawn.square()}


def same(images: int, tokens: int = 196) -> dict[str, Tensor]:
    return {"patch_loss": losses(1, tokens)["patch_loss"].expand(images, -1)}


def hardest_first(mask: Tensor, signals: dict[str, Tensor]) -> Tensor:
    order = np.argsort(-signals["patch_loss"].numpy(), 1)
    return torch.from_numpy(np.take_along_axis(mask.numpy(), order, 1))


@notices("flip")
def counts_stay_the_same_over_the_training(lab: Lab) -> None:
    for progress in (0.0, 0.3, 1.0):
        view = lab.view("hard-patches", 64, signals=losses(64), progress=progress)
        assert view.hidden is not None and view.length == 49
        assert (view.hidden.sum(1) == 147).all()


@notices("flip", "shift", "share")
def the_hardest_are_hidden_for_certain_and_the_rest_equally_often(lab: Lab) -> None:
    signals = same(4096)
    # int(147 * .5 * progress) hardest ones: none at the beginning, 73 at the end.
    for progress, hardest in ((0.0, 0), (0.01, 0), (0.25, 18), (0.5, 36), (1.0, 73)):
        hidden = hardest_first(lab.hidden("hard-patches", 4096, signals=signals, progress=progress), signals)
        assert hidden[:, :hardest].all()
        chance = (147 - hardest) / (196 - hardest)
        sd = (chance * (1 - chance) / 4096) ** 0.5  # binomial; 196 patches: 1e-4 in all
        assert (hidden[:, hardest:].double().mean(0) - chance).abs().max() < 5 * sd


@notices("flip", "shift")
def the_share_reaches_that_of_the_reference_when_an_epoch_ends(lab: Lab) -> None:
    signals = losses(64)
    order = np.argsort(-signals["patch_loss"].numpy(), 1)
    for epochs, epoch in ((200, 0), (200, 99), (200, 199), (12, 0), (12, 6)):
        published = int(147 * 0.5 * (epoch + 1) / epochs)  # throughout the epoch
        lag = 147 * 0.5 / epochs  # stated on the strategy's page
        for part in (0.0, 0.5, 1.0):
            hidden = lab.hidden("hard-patches", 64, signals=signals, progress=(epoch + part) / epochs)
            # Beyond the hardest ones, which all images hide, chance goes on: the shortest run is the number.
            runs = np.take_along_axis(~hidden.numpy(), order, 1).argmax(1)
            least = published if part == 1 else max(0, math.floor(published - lag * (1 - part)))
            assert least <= runs.min() <= published + 2, (epochs, epoch, part)


@notices("flip", "shift")
def each_image_hides_its_own_hardest(lab: Lab) -> None:
    signals = losses(64)
    for hardest, certain in ((0.5, 73), (1.0, 147), (0.2, 29)):
        hidden = lab.hidden("hard-patches", 64, signals=signals, progress=1.0, hardest=hardest)
        for row, mask in zip(signals["patch_loss"].tolist(), hidden, strict=True):
            order = sorted(range(196), key=row.__getitem__, reverse=True)
            assert mask[order[:certain]].all()
            assert mask[order[certain:]].sum() == 147 - certain


@notices("share")
def the_rest_is_uniform_over_subsets(lab: Lab) -> None:
    signals = same(6000, 6)
    # Three of six are hidden: the hardest, int(3 * .5), and two of the other five.
    drawn = lab.hidden("hard-patches", 6000, Grid(2, 3, 1), signals=signals, progress=1.0, ratio=0.5)
    found = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in hardest_first(drawn, signals))
    subsets = [(0, *pair) for pair in itertools.combinations(range(1, 6), 2)]
    assert stats.chisquare([found[subset] for subset in subsets]).pvalue > 1e-4
    assert found.total() == sum(found[subset] for subset in subsets)


@notices("flip", "share")
def at_the_beginning_masks_are_random_whatever_is_hard(lab: Lab) -> None:
    signals = same(8000, 6)
    drawn = lab.hidden("hard-patches", 8000, Grid(2, 3, 1), signals=signals, ratio=1 / 3)
    found = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in drawn)
    pairs = list(itertools.combinations(range(6), 2))
    assert set(found) <= set(pairs)
    assert stats.chisquare([found[pair] for pair in pairs]).pvalue > 1e-4


@notices("shift")
def only_the_order_of_losses_matters(lab: Lab) -> None:
    signals = losses(64)
    plain = Lab().hidden("hard-patches", 64, signals=signals, progress=0.7)
    for other in (5 * signals["patch_loss"], signals["patch_loss"].double() - 9, signals["patch_loss"].log()):
        assert torch.equal(plain, lab.hidden("hard-patches", 64, signals={"patch_loss": other}, progress=0.7))


@notices("flip", "shift")
def matched_hides_exactly_three_quarters_with_the_hardest(lab: Lab) -> None:
    signals = losses(64)
    strategy = REGISTRY.create("hard-patches", ratio=0.6).matched(0.75)
    view = lab.view(strategy, 64, signals=signals, progress=1.0)
    assert view.hidden is not None and view.length == 49
    assert (view.hidden.sum(1) == 147).all()
    assert hardest_first(view.hidden, signals)[:, :73].all()


test_holds, test_notices = invariants_of(__name__)


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="hardest"):
        REGISTRY.create("hard-patches", hardest=1.5)


@torch.no_grad()
def test_the_predictor_learns_to_rank_recovered_patches() -> None:
    strategy, context = create_ready("hard-patches-predicted", 1.0)
    _, own, view = split_loss(strategy, context, head())
    outcome = head()(Examples((view,), (images(),), torch.zeros(6, dtype=torch.long)))
    assert view.hidden is not None and outcome.patch_loss is not None
    predicted = context.module(context.features)[..., 0]  # type: ignore[misc]
    total, pairs = 0.0, 0
    for row in range(6):
        hidden = view.hidden[row].nonzero()[:, 0].tolist()
        for place, one in enumerate(hidden):
            for other in hidden[place + 1 :]:
                margin = float(predicted[row, one] - predicted[row, other])
                harder = outcome.patch_loss[row, one] > outcome.patch_loss[row, other]
                total += math.log1p(math.exp(-margin if harder else margin))
                pairs += 1
    assert own.item() == pytest.approx(total / pairs, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("progress", "hardest"), [(0.0, 0), (0.5, 4), (1.0, 9)])
def test_the_patches_predicted_hardest_are_hidden(progress: float, hardest: int) -> None:
    strategy, context = create_ready("hard-patches-predicted", progress)
    view = split_loss(strategy, context, head())[2]
    predicted = context.module(context.features)[..., 0]  # type: ignore[misc]
    assert view.hidden is not None and (view.hidden.sum(1) == 18).all()
    for row in range(6):
        assert view.hidden[row][predicted[row].argsort(descending=True)[:hardest]].all()


def test_a_predictor_without_losses_to_learn_from_is_refused() -> None:
    strategy, context = create_ready("hard-patches-predicted")
    view = complete(strategy(images(), context), images(), GRID)
    with pytest.raises(ValueError, match="choose --objective mae"):
        strategy.loss(view, StepOutput(torch.zeros(())), context)
