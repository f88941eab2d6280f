"""What every registered strategy owes the harness, whatever it does."""

import json

import pytest
import torch

from maskbench.context import SIGNALS
from maskbench.grid import Grid
from maskbench.objectives.mae import Mae
from maskbench.strategy import REGISTRY, Strategy
from maskbench.view import realised_ratio
from maskbench.vit import build_encoder
from tests.signals import Batch, batch_for, tensors, view_of

NAMES = REGISTRY.names()
GRIDS = [Grid(8, 8, 4), Grid(6, 10, 4), Grid(7, 7, 8)]
everyone = pytest.mark.parametrize("name", NAMES)


def both_regimes(name: str) -> list[Strategy]:
    strategy = REGISTRY.create(name)
    return [strategy, strategy.matched(0.6)]


def test_nothing_that_ships_is_broken() -> None:
    assert REGISTRY.broken == {}
    assert set(NAMES) >= {"none", "random", "gmml", "attmask-high", "zoom-in-mask"}


@everyone
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_view_is_well_formed(name: str, grid: Grid, channels: int) -> None:
    for strategy in both_regimes(name):
        batch = batch_for(strategy, 32, grid, channels)
        before, state = batch.images.clone(), torch.get_rng_state()
        view = view_of(strategy, batch)  # `complete` checks shapes, dtypes and parts
        assert torch.equal(batch.images, before), "the images were modified in place"
        assert torch.equal(torch.get_rng_state(), state), "torch's global generator was used"
        for label, value in tensors(view).items():
            assert torch.isfinite(value.float()).all(), label
            assert len(value) == 32, label
        for number in range(len(view.terms)):
            assert (tensors(view)[f"weight {number}"] >= 0).all()
        if view.length is not None:
            assert view.present is not None
            assert (view.present.sum(1) == view.length).all()
        if view.replaced is not None:
            assert not (view.replaced & ~view.hidden).any()
        if view.thrown is not None:
            assert not (view.thrown & ~view.hidden).any()


@everyone
def test_a_row_depends_on_its_own_sample_alone(name: str) -> None:
    for strategy in both_regimes(name):
        batch = batch_for(strategy)
        whole = tensors(view_of(strategy, batch, epoch=3, step=9))
        chosen = torch.arange(32, 64)  # one group of partners
        part = tensors(view_of(strategy, batch.rows(chosen), epoch=3, step=9))
        for label, value in whole.items():
            assert torch.equal(value[chosen], part[label]), label
        scattered = torch.tensor([5, 40, 17])
        few = tensors(view_of(strategy, batch.rows(scattered), epoch=3, step=9))
        for label in ("hidden", "weight 0"):  # pixels may come from a partner, masks may not
            if label in whole:
                assert torch.equal(whole[label][scattered], few[label]), label


@everyone
def test_seed_epoch_and_sample_change_the_draw(name: str) -> None:
    strategy = REGISTRY.create(name)
    if name == "none":
        return
    batch = batch_for(strategy)
    base = tensors(view_of(strategy, batch))
    again = tensors(view_of(strategy, batch))
    assert all(torch.equal(base[label], again[label]) for label in base)
    for changed in ({"seed": 1}, {"epoch": 1}):
        other = tensors(view_of(strategy, batch, **changed))
        assert any(not torch.equal(base[label], other[label]) for label in base), changed


@everyone
@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_matched_hides_the_same_everywhere(name: str, ratio: float) -> None:
    strategy = REGISTRY.create(name).matched(ratio)
    batch = batch_for(strategy)
    view = view_of(strategy, batch)
    if name == "none":
        assert view.hidden is None
        return
    realised = realised_ratio(view, batch.grid)
    assert torch.equal(realised, torch.full_like(realised, batch.grid.count(ratio) / batch.grid.size))


@everyone
def test_parameters_are_plain_and_round_trip(name: str) -> None:
    for strategy in both_regimes(name):
        parameters = json.loads(json.dumps(strategy.parameters))
        assert REGISTRY.create(name, **parameters) == strategy
    assert strategy.needs <= SIGNALS.keys()
    assert (type(strategy).__doc__ or "").strip()


def hidden_pixels_changed(batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    return torch.where(batch.grid.pixels(hidden), 9 * torch.randn_like(batch.images), batch.images)


@everyone
@pytest.mark.parametrize("channels", [1, 3])
def test_common_objective_takes_it(name: str, channels: int) -> None:
    grid = Grid(6, 10, 4)
    for strategy in both_regimes(name):
        batch = batch_for(strategy, 8, grid, channels)
        torch.manual_seed(0)
        kwargs = {"embed_dim": WIDTH, "depth": 2, "num_heads": 2}
        encoder = build_encoder("vit_tiny_patch16_224", grid, channels, kwargs, plain_attention=True)
        mae = Mae(decoder_width=16, decoder_depth=1, decoder_heads=2)
        head = mae.build(encoder, grid, channels, 10, plain_attention=True)
        view = view_of(strategy, batch)
        outcome = head(view, torch.zeros(8, dtype=torch.long))
        outcome.loss.backward()
        assert torch.isfinite(outcome.loss)
        assert outcome.patch_loss.shape == (8, grid.size)
        gradients = [p.grad for p in encoder.vit.blocks.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)
        if view.hidden is not None and view.hidden.any():
            shown = encoder(view.images, view.present, view.replaced, view.length)
            other = encoder(hidden_pixels_changed(batch, view.hidden), view.present, view.replaced, view.length)
            real = slice(None) if shown.valid is None else shown.valid
            assert torch.allclose(shown.patches[real], other.patches[real], atol=1e-5)


WIDTH = 32
