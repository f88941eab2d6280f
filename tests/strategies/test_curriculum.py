"""Curriculum masking: from a partner of the model to its adversary, and a loss of its own."""

import math

import pytest
import torch
from torch import Tensor

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.step_output import StepOutput
from maskbench.core.view import View
from maskbench.strategy import REGISTRY
from tests.helpers.learned_strategies import create_ready, head, images, split_loss


@torch.no_grad()
def test_curriculum_hides_what_is_rated_lowest_and_changes_no_pixel() -> None:
    strategy, context = create_ready("curriculum", 0.3)
    rating = context.module(images())  # type: ignore[misc]
    view = split_loss(strategy, context, head())[2]
    assert view.hidden is not None
    assert (view.hidden.sum(1) == 18).all()
    for row in range(6):
        assert rating[row][view.hidden[row]].max() < rating[row][~view.hidden[row]].min() + 2e-6
    assert torch.equal(view.images, images())


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_curriculum_goes_from_partner_to_adversary(progress: float) -> None:
    def gradient(progress: float) -> Tensor:
        strategy, context = create_ready("curriculum", progress)
        objective, _, _ = split_loss(strategy, context, head())
        objective.backward()
        return context.module.rate.weight.grad  # type: ignore[union-attr]

    first = gradient(0.0)
    assert first.abs().max() > 1e-6
    torch.testing.assert_close(gradient(progress), (1 - 2 * progress) * first, rtol=1e-4, atol=1e-9)


GRIDS = (Grid(14, 14, 1), Grid(8, 8, 1), Grid(8, 16, 1), Grid(4, 4, 1))


def own_loss(
    rating: list[list[float]], shown: float, decided: float = 1.0, balanced: float = 0.01, varied: float = 2.0
) -> float:
    """The loss of the rating network as described, image by image and pair by pair."""
    total = 0.0
    for image in rating:
        for value in image:
            bell = math.exp(-((value - 0.5) ** 2) / (2 * 0.12**2))  # off 0.5, times the density's width
            total += decided * bell * 0.12 * math.sqrt(2 * math.pi) / (len(rating) * len(image))
        mean = sum(image) / len(image)
        divergence = mean * math.log(mean / shown) + (1 - mean) * math.log((1 - mean) / (1 - shown))
        total += balanced * divergence / len(rating)
    pairs = [(one, other) for one in range(len(rating)) for other in range(one)]
    for one, other in pairs:
        total += varied * math.exp(-0.1 * math.dist(rating[one], rating[other])) / len(pairs)
    return total


def ratings(count: int, tokens: int) -> Tensor:
    return (2 * torch.randn(count, tokens, generator=torch.Generator().manual_seed(tokens))).sigmoid()


def loss_of(rating: Tensor, grid: Grid, **parameters: float) -> Tensor:
    strategy = REGISTRY.create("curriculum", **parameters)
    context = Context(grid, torch.arange(len(rating)), seed=0, epoch=0, step=0)
    context.kept["rating"] = rating
    blank = torch.zeros(len(rating), 1, *grid.image_size)
    loss = strategy.loss(View(blank), StepOutput(torch.zeros(())), context)
    assert loss is not None
    return loss


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "weights", [{}, {"decided": 0.5, "balanced": 2.0, "varied": 3.0}, {"ratio": 0.6}], ids=["paper", "other", "ratio"]
)
def test_its_own_loss_is_that_of_a_plain_loop(grid: Grid, weights: dict[str, float]) -> None:
    rating = ratings(5, grid.size)
    shown = 1 - weights.get("ratio", 0.75)
    expected = own_loss(rating.double().tolist(), shown, **{k: v for k, v in weights.items() if k != "ratio"})
    assert loss_of(rating, grid, **weights).item() == pytest.approx(expected, rel=1e-5)


def test_ratings_are_pushed_off_the_middle() -> None:
    """Gradient descent moves 0.4 down and 0.6 up, and most steeply one deviation from 0.5, where 0.5 is the peak."""
    rating = torch.tensor([[0.02, 0.3, 0.38, 0.45, 0.55, 0.62, 0.7, 0.98]], requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of(rating, Grid(2, 4, 1), balanced=0.0, varied=0.0), rating)
    assert (slope[0, 1:4] > 0).all() and (slope[0, 4:7] < 0).all()
    assert slope[0].abs().argmax() in (2, 5) and slope[0, [0, 7]].abs().max() < 3e-3 * slope[0, 2]


def test_each_image_is_balanced_by_itself() -> None:
    """One image is rated 0.05 and one 0.45: 0.25 on average, which is the share seen, yet each is off it."""
    rating = torch.tensor([[0.05] * 8, [0.45] * 8], requires_grad=True)
    loss = loss_of(rating, Grid(2, 4, 1), decided=0.0, balanced=1.0, varied=0.0)
    (slope,) = torch.autograd.grad(loss, rating)
    assert loss.item() > 0.05 and (slope[0] < 0).all() and (slope[1] > 0).all()


def test_ratings_of_exactly_0_and_1_leave_the_gradients_finite() -> None:
    rating = torch.tensor([[0.0] * 8, [1.0] * 8], requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of(rating, Grid(2, 4, 1)), rating)
    assert slope.isfinite().all()
    strategy, context = create_ready("curriculum", 0.3)
    context.module.rate.bias.data.fill_(-200.0)  # type: ignore[union-attr]
    view = strategy(images(), context)
    assert view.images.isfinite().all() and torch.equal(view.images, images())


@torch.no_grad()
def test_the_loss_is_of_the_ratings_that_made_the_view() -> None:
    strategy, context = create_ready("curriculum", decided=0.5, balanced=2.0, varied=3.0)
    _, own, _ = split_loss(strategy, context, head())
    rating = context.module(images()).double().tolist()  # type: ignore[misc]
    assert own.item() == pytest.approx(own_loss(rating, 0.25, 0.5, 2.0, 3.0), rel=1e-5)
