"""ADIOS: the masker climbs the objective's loss, descends its own, and every part has its turn."""

import math

import pytest
import torch
from torch import Tensor

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.step_output import StepOutput
from maskbench.core.view import Term, View, complete
from maskbench.strategy import REGISTRY, Strategy
from tests.helpers.learned_strategies import create_ready, head, images, split_loss


def slopes(strategy: Strategy, context: Context, parameter: Tensor, place: int) -> tuple[float, float]:
    """Finite differences of the objective's loss and of the strategy's own along one number."""
    model, step, found = head(), 1e-2, []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.view(-1)[place] += sign * step
            objective, own, _ = split_loss(strategy, context, model)
            parameter.view(-1)[place] -= sign * step
        found.append((objective.item(), own.item()))
    (above, own_above), (below, own_below) = found
    return (above - below) / (2 * step), (own_above - own_below) / (2 * step)


def test_adios_climbs_the_objective_and_descends_its_penalty() -> None:
    strategy, context = create_ready("adios")
    bias = context.module.part[0].bias  # type: ignore[union-attr]
    objective, own, _ = split_loss(strategy, context, head())
    (objective + own).backward()
    for place in range(4):
        climbed, descended = slopes(strategy, context, bias.data, place)
        assert abs(climbed) > 1e-4  # else nothing would be tested
        assert bias.grad[place].item() == pytest.approx(descended - climbed, rel=0.05, abs=2e-4)


@torch.no_grad()
def test_adios_dims_one_part_of_each_image() -> None:
    strategy, context = create_ready("adios")
    parts = context.module(images())  # type: ignore[misc]
    torch.testing.assert_close(parts.sum(1), torch.ones(6, 16, 24))
    _, own, view = split_loss(strategy, context, head())
    weight = view.terms[0].weight
    assert weight is not None
    torch.testing.assert_close(view.images, images() * (1 - weight))
    penalty = 0.0
    for row in range(6):
        assert min((weight[row, 0] - part).abs().max() for part in parts[row]) < 1e-6
        penalty += 1 / math.sin(math.pi * weight[row].mean().item()) / 6
    assert own.item() == pytest.approx(penalty, rel=1e-5)


@torch.no_grad()
def test_adios_draws_every_part() -> None:
    strategy, context = create_ready("adios")
    parts, seen = context.module(images()), set()  # type: ignore[misc]
    for seed in range(20):  # 120 draws: one of six parts is missed with probability 6 * (5 / 6) ** 120 = 2e-9
        weight = split_loss(strategy, context, head(), seed)[2].terms[0].weight
        assert weight is not None
        seen |= {int((parts[row] - weight[row]).abs().amax((1, 2)).argmin()) for row in range(6)}
    assert seen == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(("rows", "cols"), [(14, 14), (8, 8), (8, 16), (4, 4)])
@torch.no_grad()
def test_view_and_penalty_are_those_of_a_plain_loop(rows: int, cols: int) -> None:
    """Per image: multiply each pixel by 1 - its part; the penalty is 1 / sin(pi * mean part), the weight 1."""
    grid = Grid(rows, cols, 2)
    pictures = torch.randn(4, 3, *grid.image_size, generator=torch.Generator().manual_seed(rows + cols))
    torch.manual_seed(0)
    strategy = REGISTRY.create("adios")
    context = Context(grid, torch.arange(4), seed=2, epoch=0, step=0, module=strategy.build(pictures, grid, 0))
    view = complete(strategy(pictures, context), pictures, grid)
    own = strategy.loss(view, StepOutput(torch.zeros(())), context)
    assert own is not None
    parts = context.module(pictures).double().numpy()  # type: ignore[misc]
    drawn = Context(grid, torch.arange(4), seed=2, epoch=0, step=0).integers(6, 1)[:, 0].tolist()
    penalty = 0.0
    for image in range(4):
        area = 0.0
        for y in range(2 * rows):
            for x in range(2 * cols):
                part = parts[image, drawn[image], y, x]
                area += part / (4 * rows * cols)
                for channel in range(3):
                    assert view.images[image, channel, y, x].item() == pytest.approx(
                        pictures[image, channel, y, x].item() * (1 - part), rel=1e-4, abs=1e-6
                    )
        penalty += 1.0 / math.sin(math.pi * area) / 4
    assert own.item() == pytest.approx(penalty, rel=1e-5)


def test_the_defaults_are_those_of_the_published_command_line() -> None:
    assert REGISTRY.create("adios").parameters == {"slots": 6, "penalty": 1.0}


def test_a_part_that_has_vanished_is_pushed_back() -> None:
    strategy, context = create_ready("adios")
    for area, back in ((1e-5, 1), (1 - 1e-5, -1)):
        weight = torch.full((6, 1, 16, 24), area, requires_grad=True)
        own = strategy.loss(View(images(), terms=(Term(weight=weight),)), StepOutput(torch.zeros(())), context)
        assert own is not None
        own.backward()
        assert weight.grad is not None and (weight.grad * back > 0).all(), "reversed on the way, so descending"
