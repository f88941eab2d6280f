"""What holds for every strategy that trains a network: its loss with several crops, its seed, its checkpoint."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maskbench.api import degrade
from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.step_output import StepOutput
from maskbench.core.view import View, complete
from maskbench.objective import Examples
from maskbench.objectives.gmml import Gmml
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import REGISTRY
from maskbench.training.loop import pretrain
from maskbench.training.step import Loss, Trainer
from tests.helpers.learned_strategies import GRID, create_ready, encoder, images
from tests.helpers.tiny_run import tiny_config

LEARNED = ("adios", "curriculum", "hard-patches-predicted")


def test_each_crop_has_its_own_part_in_what_a_strategy_learns() -> None:
    """The strategy's loss is the mean over crops, each from what was made, and lost, in that crop."""

    def of(contexts: list[Context], views: list[View]) -> tuple[Tensor, Tensor, list[Tensor]]:
        head = Gmml(crops=len(views)).build(encoder(), GRID, 3, 10, plain_attention=True)
        given = Examples(tuple(views), tuple(view.images for view in views), torch.zeros(6, dtype=torch.long))
        outcome = Loss(head, strategy, contexts[0].module)(given, contexts)
        return (
            outcome.loss,
            head(given).loss,
            [strategy.loss(*one) for one in zip(views, head(given).each, contexts, strict=True)],
        )

    for name in ("curriculum", "hard-patches-predicted"):
        strategy, first = create_ready(name, 0.5)
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
    config = tiny_config(tmp_path, name)
    planned, splits = load_data(make_plan(config))
    state = build_state(planned, splits)
    assert isinstance(state.module, nn.Module)
    before = {key: value.clone() for key, value in state.module.state_dict().items()}
    trained = {id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]}
    assert {id(parameter) for parameter in state.module.parameters()} <= trained
    trainer = Trainer(planned.config, splits, planned.strategy, state, Stopwatch(torch.device("cpu")))
    pretrain(trainer, online=dict, on_step=lambda *_: None, on_epoch=lambda _: None)
    after = state.module.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before)
    assert all(torch.equal(after[key], value) for key, value in state.state_dict()["module"].items())


@pytest.mark.parametrize("shape", [(6, 1, 16, 24), (6, 3, 16, 16), (6, 5, 16, 24)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", LEARNED)
def test_images_of_any_float_type(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The view has the images' type, is that of float32 but for rounding, and gradients reach the network."""
    strategy = REGISTRY.create(name)
    grid = Grid(shape[2] // 4, shape[3] // 4, 4)
    pictures = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    features = torch.randn(6, grid.size, 16, generator=torch.Generator().manual_seed(3)).to(dtype)
    torch.manual_seed(0)
    module = strategy.build(pictures, grid, 16)
    assert module is not None

    def view_and_loss(images: Tensor, features: Tensor) -> tuple[View, Tensor]:
        context = Context(
            grid, torch.arange(6), seed=3, epoch=0, step=0, progress=1.0, module=module, signals={"features": features}
        )
        view = complete(strategy(images, context), images, grid)
        patch_loss = torch.rand(6, grid.size, generator=torch.Generator().manual_seed(4)).to(images.dtype)
        own = strategy.loss(view, StepOutput(images.new_zeros(()), patch_loss), context)
        assert own is not None
        return view, own

    view, own = view_and_loss(pictures, features)
    plain, expected = view_and_loss(pictures.float(), features.float())
    assert view.images.dtype == dtype and all(term.weight.dtype == dtype for term in view.terms)  # type: ignore[union-attr]
    torch.testing.assert_close(view.images.float(), plain.images, atol=0.02, rtol=0.02)
    if view.hidden is not None and plain.hidden is not None:
        assert torch.equal(view.hidden, plain.hidden)
    assert own.item() == pytest.approx(expected.item(), rel=0.02)
    (own.float() + view.images.float().square().mean()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in module.parameters())
