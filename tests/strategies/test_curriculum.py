"""Curriculum masking: from a partner of the model to its adversary, and a loss of its own."""

import math

import pytest
import torch
from torch import Tensor

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


@torch.no_grad()
def test_curriculums_own_loss() -> None:
    strategy, context = create_ready("curriculum", decided=0.5, balanced=2.0, varied=3.0)
    _, own, _ = split_loss(strategy, context, head())
    rating = context.module(images()).double()  # type: ignore[misc]
    undecided = sum(
        1 - math.exp(-((value - round(value)) ** 2) / (2 * 0.12**2)) for value in rating.flatten().tolist()
    ) / (6 * 24)
    alike = sum(
        math.exp(-0.1 * math.dist(rating[one].tolist(), rating[other].tolist()))
        for one in range(6)
        for other in range(6)
        if one != other
    ) / (6 * 5)
    expected = 0.5 * undecided + 2.0 * (rating.mean().item() - 0.25) ** 2 + 3.0 * alike
    assert own.item() == pytest.approx(expected, rel=1e-5)
