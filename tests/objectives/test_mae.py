"""Masked autoencoding: who is seen, who is recovered, and what the gradient reaches."""

import dataclasses
import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.view import View, complete
from maskbench.errors import UsageError
from maskbench.models.encoder import build_encoder
from maskbench.objective import REGISTRY, Examples, Head
from maskbench.objectives.mae import Mae, embed_level

GRID = Grid(4, 4, 4)


def head_for(**parameters: int | str) -> Head:
    torch.manual_seed(0)
    kwargs = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, kwargs, plain_attention=True)
    mae = Mae(decoder_width=16, decoder_depth=1, decoder_heads=2).replace(**parameters)
    return mae.build(encoder, GRID, 3, 10, plain_attention=True)


def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def mask(*tokens: int) -> Tensor:
    hidden = torch.zeros(3, 16, dtype=torch.bool)
    hidden[:, list(tokens)] = True
    return hidden


def given(view: View) -> Examples:
    return Examples((view,), (view.images,), torch.zeros(len(view.images), dtype=torch.long))


def view_hiding(hidden: Tensor, x: Tensor, **given: Tensor | int) -> View:
    return complete(View(x, hidden, **given), images(), GRID)  # type: ignore[arg-type]


@torch.no_grad()
def test_hidden_pixels_reach_nothing() -> None:
    head, x = head_for(), images()
    hidden = mask(0, 5, 6, 15)
    changed = torch.where(GRID.pixels(hidden), torch.full_like(x, 100.0), x)
    base = head(given(view_hiding(hidden, x, length=12)))
    other = head(given(view_hiding(hidden, changed, length=12)))
    assert torch.equal(base.prediction, other.prediction)
    assert base.loss == other.loss  # the target is the clean image either way


def test_visible_patches_have_no_gradient_in_the_prediction() -> None:
    head = head_for()
    hidden = mask(1, 2, 3)
    outcome = head(given(view_hiding(hidden, images(), length=13)))
    (gradient,) = torch.autograd.grad(outcome.loss, outcome.prediction)
    touched = GRID.patchify(gradient).abs().sum(2) > 0
    assert torch.equal(touched, hidden)


def test_given_length_and_padding_are_the_same_model() -> None:
    head, hidden = head_for(), mask(0, 1, 2, 3, 4, 5)
    with torch.no_grad():
        exact = head(given(view_hiding(hidden, images(), length=10)))
        padded = head(given(view_hiding(hidden, images())))
    torch.testing.assert_close(exact.prediction, padded.prediction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exact.loss, padded.loss)


@torch.no_grad()
def test_rows_with_different_counts_do_not_disturb_each_other() -> None:
    head, x = head_for(), images()
    hidden = mask()
    hidden[0, :14] = hidden[1, :3] = True
    together = head(given(view_hiding(hidden, x))).prediction
    for row in range(3):
        view = complete(View(x[row : row + 1], hidden[row : row + 1]), x[row : row + 1], GRID)
        alone = head(given(view)).prediction
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_thrown_tokens_influence_no_other_prediction() -> None:
    head, hidden, thrown = head_for(), mask(0, 1, 2, 3), mask(2, 3)
    base = head(given(view_hiding(hidden, images(), thrown=thrown, length=12))).prediction
    # What the decoder would see of them; no constant, which the first layer norm would take away.
    head.positions[:, 2:4] += torch.randn(2, 16, generator=torch.Generator().manual_seed(4))  # type: ignore[attr-defined]
    moved = head(given(view_hiding(hidden, images(), thrown=thrown, length=12))).prediction
    kept = GRID.pixels(~thrown).expand_as(base)
    torch.testing.assert_close(base[kept], moved[kept])
    assert not torch.allclose(base[~kept], moved[~kept], atol=1e-2)
    nothing_thrown = [head(given(view_hiding(hidden, images(), length=12))).prediction]
    head.positions[:, 2:4] += torch.randn(2, 16, generator=torch.Generator().manual_seed(5))  # type: ignore[attr-defined]
    nothing_thrown.append(head(given(view_hiding(hidden, images(), length=12))).prediction)
    assert not torch.allclose(nothing_thrown[0][kept], nothing_thrown[1][kept], atol=1e-4)


@torch.no_grad()
def test_replaced_tokens_are_encoded_as_mask_tokens() -> None:
    head, hidden, replaced = head_for(), mask(0, 1, 2, 3), mask(3)
    head.encoder.mask_token.normal_()
    view = view_hiding(hidden, images(), replaced=replaced, length=13)
    encoded = head.encoder(view.images, view.present, view.replaced, view.length)
    assert encoded.patch_index[0].tolist() == list(range(3, 16))
    without = head.encoder(view.images, view.present, None, view.length)
    assert not torch.allclose(encoded.patches[:, 0], without.patches[:, 0])


def test_every_part_is_trained() -> None:
    head = head_for()
    head(given(view_hiding(mask(0, 1), images(), length=14))).loss.backward()
    idle = [name for name, parameter in head.named_parameters() if parameter.grad is None]
    assert idle == ["encoder.mask_token"]  # nothing was replaced


@pytest.mark.parametrize("name", ["mae", "simmim", "gmml"])
@pytest.mark.parametrize(
    ("how", "channels", "refused"), [("patch", 1, True), ("patch-channel", 3, True), ("patch", 3, False)]
)
def test_patches_of_one_value_are_not_normalised(name: str, how: str, channels: int, refused: bool) -> None:
    kwargs = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    encoder = build_encoder("vit_tiny_patch16_224", Grid(4, 4, 1), channels, kwargs, plain_attention=True)
    objective = REGISTRY.create(name, normalise=how)
    with pytest.raises(UsageError, match=f"normalise={how} makes nothing") if refused else nullcontext():
        objective.build(encoder, Grid(4, 4, 1), channels, 10, plain_attention=True)


@pytest.mark.parametrize("bad", [{"decoder_width": 30}, {"decoder_depth": 0}, {"normalise": "both"}, {"error": "l3"}])
def test_parameters_are_checked(bad: dict[str, int | str]) -> None:
    with pytest.raises(ValueError, match="mae: "):
        Mae(**bad)  # type: ignore[arg-type]


def test_decoder_is_thrown_away_from_the_export() -> None:
    head = head_for()
    assert not any("mask_token" in name or "decoder" in name for name in head.encoder.vit.state_dict())
    assert dataclasses.is_dataclass(Mae)


def test_waves_of_a_noise_level() -> None:
    levels = [0.0, 0.3, math.sqrt(2)]
    found = embed_level(torch.tensor(levels), 8)
    for row, level in zip(found.tolist(), levels, strict=True):
        angles = [1000 * math.log(1 + level) / 10_000 ** (number / 4) for number in range(4)]
        expected = [wave(angle) for wave in (math.cos, math.sin) for angle in angles]
        assert row == pytest.approx(expected, abs=2e-4)  # float32 angles up to 900 are known to 6e-5


@torch.no_grad()
def test_only_the_decoder_is_told_the_noise_level_and_only_where_it_asks() -> None:
    x, levels = images(), torch.tensor([0.0, 0.5, 1.0])
    for conditioned in (False, True):
        head = head_for(conditioned=conditioned)
        quiet, loud = (complete(View(x, condition=level), x, GRID) for level in (levels * 0, levels))
        told = [head(given(view)).prediction for view in (quiet, loud)]
        same = [torch.equal(first, second) for first, second in zip(*told, strict=True)]
        assert same == ([True, False, False] if conditioned else [True] * 3)
        encoded = [head.encoder(view.images, view.present, view.replaced, view.length) for view in (quiet, loud)]
        assert torch.equal(encoded[0].patches, encoded[1].patches)


def test_only_the_decoders_last_norm_has_another_epsilon_than_the_reference() -> None:
    epsilons = {name: m.eps for name, m in head_for().named_modules() if isinstance(m, nn.LayerNorm)}
    assert epsilons.pop("norm") == 1e-5 and set(epsilons.values()) == {1e-6}  # 1e-6 in the reference
    # By how much a token of variance 1 becomes smaller, as docs/objectives.md says.
    token = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    here, there = (torch.nn.functional.layer_norm(token, (2,), eps=eps) for eps in (1e-5, 1e-6))
    assert (1 - here / there).mean().item() == pytest.approx(4.5e-6, rel=1e-3)
