"""simmim and gmml: every token enters, mask tokens hide content, the loss is the published one."""

import math

import pytest
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import Term, View, complete
from maskbench.models.encoder import build_encoder
from maskbench.objective import REGISTRY, Examples, Head

GRID = Grid(3, 4, 4)
both = pytest.mark.parametrize("name", ["simmim", "gmml"])


def head_for(name: str, depth: int = 6) -> Head:
    torch.manual_seed(0)
    kwargs = {"embed_dim": 32, "depth": depth, "num_heads": 2}
    encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, kwargs, plain_attention=True)
    return REGISTRY.create(name).build(encoder, GRID, 3, 10, plain_attention=True)


def images() -> Tensor:
    return torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def given(view: View) -> Examples:
    return Examples((view,), (view.images,), torch.zeros(3, dtype=torch.long))


def uneven() -> Tensor:
    hidden = torch.zeros(3, 12, dtype=torch.bool)
    hidden[0, :9] = hidden[1, 2:4] = True  # the third row hides nothing
    return hidden


def plain_l1(prediction: Tensor, target: Tensor, weighed: Tensor) -> float:
    """The mean absolute error over the weighed pixels of the whole batch, one pixel after another."""
    total, count = 0.0, 0
    for row in range(3):
        for top in range(12):
            for left in range(16):
                if weighed[row, 0, top, left]:
                    for channel in range(3):
                        total += abs(float(prediction[row, channel, top, left] - target[row, channel, top, left]))
                        count += 1
    return total / count


@both
def test_loss_is_the_mean_absolute_error_over_all_hidden_pixels_of_the_batch(name: str) -> None:
    view = complete(View(images(), uneven()), images(), GRID)
    outcome = head_for(name)(given(view))
    expected = plain_l1(outcome.prediction.detach().double(), images().double(), GRID.pixels(uneven()))
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-5)


def test_gmml_averages_over_corrupted_pixels_alone() -> None:
    weight = torch.rand(3, 1, 12, 16, generator=torch.Generator().manual_seed(2)) < 0.4
    corrupted = torch.where(weight, torch.zeros(()), images())
    view = complete(View(corrupted, terms=(Term(weight=weight),)), images(), GRID)
    outcome = head_for("gmml")(given(view))
    expected = plain_l1(outcome.prediction.detach().double(), images().double(), weight)
    assert outcome.loss.item() == pytest.approx(expected, rel=1e-5)


@both
@torch.no_grad()
def test_hidden_pixels_reach_nothing_and_visible_ones_do(name: str) -> None:
    head, hidden = head_for(name), uneven()
    base = head(given(complete(View(images(), hidden), images(), GRID))).prediction
    for chosen, same in ((hidden, True), (~hidden, False)):
        changed = torch.where(GRID.pixels(chosen), torch.full((), 9.0), images())
        other = head(given(complete(View(changed, hidden), images(), GRID))).prediction
        assert torch.equal(base, other) == same


@both
def test_visible_patches_have_no_gradient_in_the_prediction(name: str) -> None:
    outcome = head_for(name)(given(complete(View(images(), uneven()), images(), GRID)))
    (gradient,) = torch.autograd.grad(outcome.loss, outcome.prediction)
    assert torch.equal(GRID.patchify(gradient).abs().sum(2) > 0, uneven())


@both
@torch.no_grad()
def test_thrown_patches_enter_nothing(name: str) -> None:
    head, hidden, thrown = head_for(name), torch.zeros(3, 12, dtype=torch.bool), torch.zeros(3, 12, dtype=torch.bool)
    hidden[:, :6] = thrown[:, 3:6] = True
    view = complete(View(images(), hidden, thrown=thrown), images(), GRID)
    base = head(given(view))
    drawn = torch.Generator().manual_seed(4)  # no constant: the first layer norm would take it away
    head.encoder.vit.pos_embed[:, 1 + 3 : 1 + 6] += torch.randn(3, 32, generator=drawn)  # of the thrown places
    other = head(given(view))
    unthrown = complete(View(images(), hidden), images(), GRID)
    assert not torch.allclose(base.prediction, head(given(unthrown)).prediction, atol=2e-5)
    kept = ~GRID.pixels(thrown).expand(-1, 3, -1, -1)
    torch.testing.assert_close(base.prediction[kept], other.prediction[kept])
    torch.testing.assert_close(base.loss, other.loss)


@torch.no_grad()
def test_gmml_reads_the_published_blocks() -> None:
    head = head_for("gmml", depth=12).eval()
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *given: outputs.append(given[2])) for block in head.encoder.vit.blocks]
    view = complete(View(images()), images(), GRID)
    prediction = head(given(view)).prediction
    for hook in hooks:
        hook.remove()
    mean = (outputs[5] + outputs[7] + outputs[9] + outputs[11]) / 4
    tokens = head.encoder.vit.norm(mean)[:, 1:]
    for layer in range(3):
        linear = head.mlp[2 * layer]
        tokens = tokens @ linear.weight.T + linear.bias
        tokens = tokens * 0.5 * (1 + torch.erf(tokens / math.sqrt(2)))
    patches = torch.einsum("bnd,dcij->bncij", tokens, head.paint.weight) + head.paint.bias[:, None, None]
    for token in range(12):
        top, left = token // 4 * 4, token % 4 * 4
        got = prediction[:, :, top : top + 4, left : left + 4]
        torch.testing.assert_close(got, patches[:, token], rtol=1e-4, atol=1e-5)


@both
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    head = head_for(name, depth=2).double()
    view = complete(View(images().double(), uneven()), images().double(), GRID)
    head(given(view)).loss.backward()
    step = 1e-3  # the loss is float32: its rounding, 1e-7, moves a quotient by 1e-4
    for parameter in (head.encoder.vit.patch_embed.proj.weight, head.encoder.mask_token, next(head.parameters())):
        flat, gradient = parameter.data.view(-1), parameter.grad.reshape(-1)
        place = int(gradient.abs().argmax())
        with torch.no_grad():
            flat[place] += step
            above = head(given(view)).loss
            flat[place] -= 2 * step
            below = head(given(view)).loss
            flat[place] += step
        assert float(above - below) / (2 * step) == pytest.approx(float(gradient[place]), rel=0.05, abs=5e-4)


def test_the_mask_token_starts_wider_than_in_the_reference_as_documented() -> None:
    torch.manual_seed(0)
    drawn = []
    for _ in range(8):
        encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, {"embed_dim": 192, "depth": 1}, plain_attention=True)
        REGISTRY.create("simmim").build(encoder, GRID, 3, 10, plain_attention=True)
        drawn.append(encoder.mask_token.detach().flatten())
    # 1,536 values: the standard error of their deviation is 0.02 / sqrt(3072) = 0.00036. The reference's ViT: 0.0108.
    assert abs(float(torch.cat(drawn).std()) - 0.02) < 5 * 0.00036
