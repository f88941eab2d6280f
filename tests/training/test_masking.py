"""Strategies that learn, in anybody's loop: views, losses and gradients of a run, and a compiled step around them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import _dynamo as dynamo

import maskbench
from maskbench.core.view import View
from maskbench.errors import UsageError
from maskbench.objective import Examples
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.microbatches import MicroBatch
from maskbench.training.step import Trainer
from tests.helpers.tiny_run import tiny_config

LEARNED = ("adios", "curriculum", "hard-patches-predicted")
INDEX = torch.tensor([7, 3, 90, 41, 12, 0, 63, 5])


def images(seed: int = 1) -> Tensor:
    return torch.randn(8, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


def signals(name: str) -> dict[str, Tensor]:
    features = torch.randn(8, 24, 16, generator=torch.Generator().manual_seed(2))
    return {"features": features} if name == "hard-patches-predicted" else {}


class Model(nn.Module):
    """A layer that predicts each patch from its own pixels and the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own, self.all = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, seen: Tensor, hidden: Tensor | None) -> Tensor:
        if hidden is not None:
            visible = (~hidden).view(-1, 1, seen.shape[2] // 4, seen.shape[3] // 4).to(seen.dtype)
            seen = seen * nn.functional.interpolate(visible, scale_factor=4)
        return self.own(seen) + self.all(seen.mean((2, 3)))[:, :, None, None]  # type: ignore[no-any-return]


def make(name: str, **parameters: Any) -> "maskbench.Masking":
    return maskbench.Masking(name, images(), patch_size=4, width=16, **parameters)


@pytest.mark.parametrize("name", LEARNED)
def test_the_view_is_that_of_degrade_and_carries_gradients(name: str) -> None:
    masking, model = make(name), Model()
    settings: dict[str, Any] = {"epoch": 2, "index": INDEX, "step": 5, "progress": 0.9, **signals(name)}
    view = masking(images(), **settings)
    other = maskbench.degrade(name, images(), patch_size=4, module=masking.module, **settings)
    assert torch.equal(view.images, other.images) and not other.images.requires_grad
    assert (view.hidden is None and other.hidden is None) or torch.equal(view.hidden, other.hidden)
    prediction = model(view.images, view.hidden)
    errors = maskbench.patch_losses(prediction, view, patch_size=4)
    loss = maskbench.recovery_loss(prediction, view, patch_size=4) + masking.loss(view, errors)
    loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in masking.parameters())


@pytest.mark.parametrize("name", LEARNED)
def test_a_runs_step_gives_the_same_gradients(name: str, tmp_path: Path) -> None:
    """The run's model and network in a loop of one's own: the views, the loss and the network's gradients are equal."""
    planned, splits = load_data(make_plan(tiny_config(tmp_path, name, seed=3)))
    state = build_state(planned, splits)
    trainer = Trainer(planned.config, splits, planned.strategy, state, Stopwatch(torch.device("cpu")))
    state.head.train()
    step_input = trainer.prepare_input(MicroBatch(INDEX, 0, 8), epoch=1, progress=0.7)
    (view,), (context,) = step_input.examples.views, step_input.contexts
    trainer.forward(step_input).loss.backward()
    assert state.module is not None
    expected = [value.grad.clone() for value in state.module.parameters()]  # type: ignore[union-attr]
    state.module.zero_grad()

    clean = step_input.examples.clean[0]
    masking = maskbench.Masking(planned.strategy, clean, patch_size=context.grid.patch, seed=3, width=16)
    masking.module = state.module
    needed = {signal: getattr(context, signal) for signal in planned.strategy.needs}
    own = masking(clean, epoch=1, index=INDEX, step=state.step, progress=0.7, **needed)
    assert torch.equal(own.images, view.images)
    output = state.head(Examples((own,), (clean,), step_input.examples.labels))
    kind = {"normalise": state.head.config.normalise, "error": state.head.config.error}  # type: ignore[union-attr]
    loss = maskbench.recovery_loss(output.prediction, own, patch_size=context.grid.patch, **kind)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, output.loss)
    (loss + masking.loss(own, output.patch_loss)).backward()
    for value, gradient in zip(state.module.parameters(), expected, strict=True):
        torch.testing.assert_close(value.grad, gradient, rtol=1e-4, atol=1e-7)


def test_an_adversary_learns_in_a_loop_of_ones_own() -> None:
    """Of a model that stays as it is, the loss rises with adios, an adversary, and falls with curriculum, a partner."""
    for name, sign in (("adios", 1), ("curriculum", -1)):
        parameters = {"penalty": 1e-3} if name == "adios" else {"decided": 0.0, "balanced": 0.0, "varied": 0.0}
        masking, model = make(name, **parameters), Model().requires_grad_(False)
        optimizer = torch.optim.SGD(masking.parameters(), lr=0.5)
        losses = []
        for _ in range(12):
            view = masking(images(), index=INDEX)
            loss = maskbench.recovery_loss(model(view.images, view.hidden), view, patch_size=4)
            optimizer.zero_grad()
            (loss + masking.loss(view)).backward()
            optimizer.step()
            losses.append(loss.item())
        assert sign * (losses[-1] - losses[0]) > 0, (name, losses)


def test_its_state_can_be_saved_and_its_seed_decides() -> None:
    before = torch.random.get_rng_state()
    one, again, other = make("adios"), make("adios"), make("adios", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in one.state_dict().items())
    assert not all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert not torch.equal(other(images()).images, one(images()).images), "other draws"
    other.seed = 0
    assert torch.equal(other(images()).images, one(images()).images)


def test_strategies_that_learn_nothing_have_no_parameters_and_no_loss() -> None:
    masking = make("random")
    view = masking(images())
    assert not list(masking.parameters()) and masking.loss(view).item() == 0 and not view.images.requires_grad
    assert torch.equal(view.hidden, maskbench.degrade("random", images(), patch_size=4).hidden)  # type: ignore[arg-type]


def test_mistakes_are_one_clear_line() -> None:
    masking = make("hard-patches-predicted")
    with pytest.raises(UsageError, match="hard-patches-predicted needs features="):
        masking(images())
    with pytest.raises(UsageError, match="'feature' is no signal; signals: attention"):
        masking(images(), feature=images())
    with pytest.raises(UsageError, match=r"images are \(8, 8\), this Masking was made for \(16, 24\)"):
        masking(torch.zeros(8, 3, 8, 8))
    view = masking(images(), **signals("hard-patches-predicted"))
    with pytest.raises(UsageError, match=r"needs patch_loss=..., see maskbench.patch_losses"):
        masking.loss(view)
    with pytest.raises(UsageError, match="not one of degrade"):
        masking.loss(View(images()))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at the view's gradient
@pytest.mark.parametrize("name", ["random", "block", "gmml", "frequency", "adios", "curriculum"])
def test_in_a_compiled_step_a_strategy_stays_outside_and_causes_no_recompilation(name: str) -> None:
    """Epoch, step, progress and numbers of the images change; after two steps nothing is compiled again."""
    compiled = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    dynamo.reset()
    dynamo.utils.counters.clear()
    learned = maskbench.Masking(name, images(), patch_size=4)
    model = Model()

    @torch.compile(backend=backend)
    def step(batch: Tensor, index: Tensor, epoch: int, progress: float) -> Tensor:
        if name in LEARNED:
            view: View = learned(batch, epoch=epoch, index=index, step=4 * epoch, progress=progress)
        else:
            view = maskbench.degrade(name, batch, patch_size=4, epoch=epoch, index=index, progress=progress)
        return maskbench.recovery_loss(model(view.images, view.hidden), view, patch_size=4)

    seen = []
    for epoch in range(5):
        loss = step(images(epoch), INDEX + 8 * epoch, epoch, epoch / 5)
        loss.backward()
        seen.append((len(compiled), sum(dynamo.utils.counters["graph_break"].values())))
    assert seen[1] == seen[-1], seen
    dynamo.reset()


def test_a_step_in_one_piece_takes_the_view_as_it_is() -> None:
    """With the strategy before the compiled function, that is one graph, compiled once for all epochs."""
    model = Model()
    dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def step(view: View) -> Tensor:
        return maskbench.recovery_loss(model(view.images, view.hidden), view, patch_size=4)

    with dynamo.config.patch(error_on_recompile=True):
        for epoch in range(4):
            view = maskbench.degrade("random", images(epoch), patch_size=4, epoch=epoch)
            step(view).backward()
    dynamo.reset()
