"""What every registered strategy owes the harness, whatever it does."""

import pytest
import torch

from maskbench.core.grid import Grid
from maskbench.core.view import realised_ratio
from maskbench.errors import UsageError
from maskbench.models.encoder import build_encoder
from maskbench.objective import Examples
from maskbench.objectives.mae import Mae
from maskbench.strategy import REGISTRY
from maskbench.testing.cases import regimes
from maskbench.testing.conformance import check_strategy
from maskbench.testing.synthetic_batch import SIGNAL_WIDTH, make_batch

NAMES = REGISTRY.names()
PUBLISHED = {
    *("random", "random-coarse", "grid", "checkerboard", "uniform", "block", "block-ibot", "block-dinov2"),
    *("attmask-high", "attmask-hint", "attmask-low", "attention-throw", "salience", "cluster", "hard-patches"),
    *("inverse-block", "inverse-block-roll", "multi-block"),
    *("color-red", "color-green", "color-blue", "color-purple"),
    *("gmml", "zoom-in", "zoom-in-mask", "zoom-out", "distort", "blur", "decolor"),
    *("noise", "frequency", "super-resolution", "deblur"),
    "hard-patches-predicted",
}
EXPERIMENTAL = ["mix", "evolved-parts", "adios", "curriculum"]
everyone = pytest.mark.parametrize("name", NAMES)


def test_everything_published_ships() -> None:
    assert REGISTRY.broken == {}
    assert set(NAMES) == {"none", *PUBLISHED, *EXPERIMENTAL}
    assert [name for name in NAMES if REGISTRY.get(name).experimental] == sorted(EXPERIMENTAL)


@everyone
def test_conforms(name: str) -> None:
    report = check_strategy(name)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("name", ["block", "block-ibot", "block-dinov2", "multi-block"])
@pytest.mark.parametrize("grid", [Grid(1, 8, 4), Grid(8, 1, 4)], ids=["row", "column"])
def test_what_never_spans_the_grid_is_refused_where_it_would_have_to(name: str, grid: Grid) -> None:
    for strategy in regimes(REGISTRY.create(name)):
        with pytest.raises(ValueError, match="use smaller patches"):
            make_batch(strategy, 8, grid).view(strategy)


@everyone
def test_says_where_it_is_published_and_what_deviates(name: str) -> None:
    if name == "none":
        return
    text = " ".join(base.__doc__ or "" for base in REGISTRY.get(name).__mro__[:2])
    assert "arXiv" in text
    assert "eviation" in text


@everyone
@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_matched_hides_the_same_everywhere(name: str, ratio: float) -> None:
    only = {"grid": 0.75, "uniform": 0.75, "checkerboard": 0.5}.get(name, ratio)
    if only != ratio:
        with pytest.raises(UsageError, match=f"exactly {only:.0%}, not {ratio:.0%}"):
            REGISTRY.create(name).matched(ratio)
        return
    strategy = REGISTRY.create(name).matched(ratio)
    batch = make_batch(strategy)
    realised = realised_ratio(batch.view(strategy), batch.grid)
    hides = "ratio" in strategy.parameters or name in ("grid", "uniform", "checkerboard")
    expected = batch.grid.count(ratio) / batch.grid.size if hides else 0.0 if name == "none" else 1.0
    if name != "frequency":  # weighs frequencies
        assert torch.equal(realised, torch.full_like(realised, expected))


@everyone
@pytest.mark.parametrize("channels", [1, 3])
def test_common_objective_takes_it(name: str, channels: int) -> None:
    if name == "none":
        return  # nothing to recover
    grid = Grid(6, 10, 4)
    for strategy in regimes(REGISTRY.create(name)):
        batch = make_batch(strategy, 8, grid, channels)
        torch.manual_seed(0)
        kwargs = {"embed_dim": SIGNAL_WIDTH, "depth": 2, "num_heads": 2}
        encoder = build_encoder("vit_tiny_patch16_224", grid, channels, kwargs, plain_attention=True)
        mae = Mae(decoder_width=16, decoder_depth=1, decoder_heads=2)
        head = mae.build(encoder, grid, channels, 10, plain_attention=True)
        view = batch.view(strategy)
        outcome = head(Examples((view,), (batch.images,), torch.zeros(8, dtype=torch.long)))
        outcome.loss.backward()
        assert torch.isfinite(outcome.loss)
        assert outcome.patch_loss is None or outcome.patch_loss.shape == (8, grid.size)
        gradients = [p.grad for p in encoder.vit.blocks.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)
        if view.hidden is not None and view.hidden.any():
            changed = torch.where(grid.pixels(view.hidden), 9 * torch.randn_like(batch.images), batch.images)
            shown = encoder(view.images, view.present, view.replaced, view.length)
            other = encoder(changed, view.present, view.replaced, view.length)
            real = slice(None) if shown.valid is None else shown.valid
            assert torch.allclose(shown.patches[real], other.patches[real], atol=1e-5)
