"""Strategies that learn: who climbs, who descends, and what is added to the loss."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskbench.api import degrade
from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.step_output import Outcome
from maskbench.core.view import Term, View, complete
from maskbench.models.encoder import Encoder, build_encoder
from maskbench.objective import Examples, Head
from maskbench.objectives.gmml import GmmlRecovery
from maskbench.objectives.mae import Mae
from maskbench.runs.plan import build, load_splits, plan
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import REGISTRY, Strategy
from maskbench.training.loop import Learner, pretrain
from tests.helpers.tiny import tiny

GRID = Grid(4, 6, 4)
LEARNED = ("adios", "curriculum", "hard-patches-predicted")


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def ready(name: str, progress: float = 0.0, **parameters: float) -> tuple[Strategy, Context]:
    torch.manual_seed(0)
    strategy = REGISTRY.create(name, **parameters)
    module = strategy.build(images(), GRID, 16)
    signals = {"features": torch.randn(6, 24, 16)}
    context = Context(GRID, torch.arange(6), seed=3, epoch=0, step=0, progress=progress, module=module, signals=signals)
    return strategy, context


def encoder() -> Encoder:
    torch.manual_seed(5)
    kwargs = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    return build_encoder("vit_tiny_patch16_224", GRID, 3, kwargs, plain_attention=True)


def head() -> Head:
    mae = Mae(decoder_width=16, decoder_depth=1, decoder_heads=2)
    return mae.build(encoder(), GRID, 3, 10, plain_attention=True)


def parts_of_loss(strategy: Strategy, context: Context, model: Head, seed: int = 3) -> tuple[Tensor, Tensor, View]:
    """The objective's loss, the strategy's own, and the view."""
    again = Context(
        GRID, torch.arange(6), seed=seed, epoch=0, step=0, progress=context.progress, module=context.module,
        signals=context._signals,
    )  # fmt: skip
    view = complete(strategy(images(), again), images(), GRID)
    outcome = model(Examples((view,), (images(),), torch.zeros(6, dtype=torch.long)))
    own = strategy.loss(view, outcome, again)
    assert own is not None
    return outcome.loss, own, view


def slopes(strategy: Strategy, context: Context, parameter: Tensor, place: int) -> tuple[float, float]:
    """Finite differences of the objective's loss and of the strategy's own along one number."""
    model, step, found = head(), 1e-2, []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.view(-1)[place] += sign * step
            objective, own, _ = parts_of_loss(strategy, context, model)
            parameter.view(-1)[place] -= sign * step
        found.append((objective.item(), own.item()))
    (above, own_above), (below, own_below) = found
    return (above - below) / (2 * step), (own_above - own_below) / (2 * step)


def test_adios_climbs_the_objective_and_descends_its_penalty() -> None:
    strategy, context = ready("adios")
    bias = context.module.part[0].bias  # type: ignore[union-attr]
    objective, own, _ = parts_of_loss(strategy, context, head())
    (objective + own).backward()
    for place in range(4):
        climbed, descended = slopes(strategy, context, bias.data, place)
        assert abs(climbed) > 1e-4  # else nothing would be tested
        assert bias.grad[place].item() == pytest.approx(descended - climbed, rel=0.05, abs=2e-4)


@torch.no_grad()
def test_adios_dims_one_part_of_each_image() -> None:
    strategy, context = ready("adios")
    parts = context.module(images())  # type: ignore[misc]
    torch.testing.assert_close(parts.sum(1), torch.ones(6, 16, 24))
    _, own, view = parts_of_loss(strategy, context, head())
    weight = view.terms[0].weight
    assert weight is not None
    torch.testing.assert_close(view.images, images() * (1 - weight))
    penalty = 0.0
    for row in range(6):
        assert min((weight[row, 0] - part).abs().max() for part in parts[row]) < 1e-6
        penalty += 0.1 / math.sin(math.pi * weight[row].mean().item()) / 6
    assert own.item() == pytest.approx(penalty, rel=1e-5)


@torch.no_grad()
def test_adios_draws_every_part() -> None:
    strategy, context = ready("adios")
    parts, seen = context.module(images()), set()  # type: ignore[misc]
    for seed in range(12):  # 72 draws: one of four parts is missed with probability 4 * 0.75 ** 72 = 4e-9
        weight = parts_of_loss(strategy, context, head(), seed)[2].terms[0].weight
        assert weight is not None
        seen |= {int((parts[row] - weight[row]).abs().amax((1, 2)).argmin()) for row in range(6)}
    assert seen == {0, 1, 2, 3}


@torch.no_grad()
def test_curriculum_hides_what_is_rated_lowest_and_changes_no_pixel() -> None:
    strategy, context = ready("curriculum", 0.3)
    rating = context.module(images())  # type: ignore[misc]
    view = parts_of_loss(strategy, context, head())[2]
    assert view.hidden is not None
    assert (view.hidden.sum(1) == 18).all()
    for row in range(6):
        assert rating[row][view.hidden[row]].max() < rating[row][~view.hidden[row]].min() + 2e-6
    assert torch.equal(view.images, images())


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_curriculum_goes_from_partner_to_adversary(progress: float) -> None:
    def gradient(progress: float) -> Tensor:
        strategy, context = ready("curriculum", progress)
        objective, _, _ = parts_of_loss(strategy, context, head())
        objective.backward()
        return context.module.rate.weight.grad  # type: ignore[union-attr]

    first = gradient(0.0)
    assert first.abs().max() > 1e-6
    torch.testing.assert_close(gradient(progress), (1 - 2 * progress) * first, rtol=1e-4, atol=1e-9)


def test_each_crop_has_its_own_part_in_what_a_strategy_learns() -> None:
    """The strategy's loss is the mean over crops, each from what was made, and lost, in that crop."""

    def of(contexts: list[Context], views: list[View]) -> tuple[Tensor, Tensor, list[Tensor]]:
        head = GmmlRecovery(crops=len(views)).build(encoder(), GRID, 3, 10, plain_attention=True)
        given = Examples(tuple(views), tuple(view.images for view in views), torch.zeros(6, dtype=torch.long))
        outcome = Learner(head, strategy, contexts[0].module)(given, contexts)
        return (
            outcome.loss,
            head(given).loss,
            [strategy.loss(*one) for one in zip(views, head(given).each, contexts, strict=True)],
        )

    for name in ("curriculum", "hard-patches-predicted"):
        strategy, first = ready(name, 0.5)
        second = Context(
            GRID, torch.arange(6), seed=4, epoch=0, step=0, progress=0.5, module=first.module,
            signals={"features": torch.randn(6, 24, 16, generator=torch.Generator().manual_seed(9))},
        )  # fmt: skip
        pictures = [images(), images().flip(3)]
        views = [
            complete(strategy(crop, context), crop, GRID)
            for crop, context in zip(pictures, (first, second), strict=True)
        ]
        together, objective, own = of([first, second], views)
        assert own[0].item() != own[1].item()
        torch.testing.assert_close(together, objective + (own[0] + own[1]) / 2)
        alone = [of([context], [view])[2][0] for context, view in zip((first, second), views, strict=True)]
        torch.testing.assert_close(own, alone)


def test_a_part_that_has_vanished_is_pushed_back() -> None:
    strategy, context = ready("adios")
    for area, back in ((1e-5, 1), (1 - 1e-5, -1)):
        weight = torch.full((6, 1, 16, 24), area, requires_grad=True)
        own = strategy.loss(View(images(), terms=(Term(weight=weight),)), Outcome(torch.zeros(())), context)
        assert own is not None
        own.backward()
        assert weight.grad is not None and (weight.grad * back > 0).all(), "reversed on the way, so descending"


@torch.no_grad()
def test_curriculums_own_loss() -> None:
    strategy, context = ready("curriculum", decided=0.5, balanced=2.0, varied=3.0)
    _, own, _ = parts_of_loss(strategy, context, head())
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


@torch.no_grad()
def test_the_predictor_learns_to_rank_recovered_patches() -> None:
    strategy, context = ready("hard-patches-predicted", 1.0)
    _, own, view = parts_of_loss(strategy, context, head())
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
    strategy, context = ready("hard-patches-predicted", progress)
    view = parts_of_loss(strategy, context, head())[2]
    predicted = context.module(context.features)[..., 0]  # type: ignore[misc]
    assert view.hidden is not None and (view.hidden.sum(1) == 18).all()
    for row in range(6):
        assert view.hidden[row][predicted[row].argsort(descending=True)[:hardest]].all()


def test_a_predictor_without_losses_to_learn_from_is_refused() -> None:
    strategy, context = ready("hard-patches-predicted")
    view = complete(strategy(images(), context), images(), GRID)
    with pytest.raises(ValueError, match="choose --objective mae"):
        strategy.loss(view, Outcome(torch.zeros(())), context)


@pytest.mark.parametrize("name", LEARNED)
def test_degrade_makes_the_same_network_again_and_touches_no_generator(name: str) -> None:
    features = torch.randn(6, 24, 16)

    def view(seed: int) -> View:
        return degrade(name, images(), patch_size=4, seed=seed, features=features, progress=1.0)

    before = torch.random.get_rng_state()
    one, again, other = view(3), view(3), view(4)
    assert torch.equal(torch.random.get_rng_state(), before)

    def same(first: View, second: View) -> bool:
        assert first.hidden is not None or name == "adios"
        if first.hidden is None or second.hidden is None:
            return torch.equal(first.images, second.images)
        return torch.equal(first.hidden, second.hidden)

    assert same(one, again) and not same(one, other)


@pytest.mark.parametrize("name", LEARNED)
def test_the_network_is_trained_and_saved_with_the_rest(name: str, tmp_path: Path) -> None:
    config = tiny(tmp_path, name)
    planned, splits = load_splits(plan(config))
    state = build(planned, splits)
    assert isinstance(state.module, nn.Module)
    before = {key: value.clone() for key, value in state.module.state_dict().items()}
    trained = {id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]}
    assert {id(parameter) for parameter in state.module.parameters()} <= trained
    pretrain(
        planned.config, splits, planned.strategy, state, Stopwatch(torch.device("cpu")),
        online=dict, on_step=lambda *_: None, on_epoch=lambda _: None,
    )  # fmt: skip
    after = state.module.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before)
    assert all(torch.equal(after[key], value) for key, value in state.state_dict()["module"].items())
