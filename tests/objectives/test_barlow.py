"""barlow against its definition, written out in loops, and against closed forms."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.view import View, complete
from maskbench.models.encoder import build_encoder
from maskbench.objective import REGISTRY, Examples
from maskbench.objectives.barlow import BarlowHead, correlation_errors

GRID = Grid(3, 4, 4)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, also what the code rounds to float32 with `.float()`."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def head_for(*, plain: bool = True, kwargs: dict[str, Any] | None = None, **parameters: Any) -> BarlowHead:
    torch.manual_seed(0)
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, **(kwargs or {})}
    encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, small, plain_attention=plain)
    barlow = REGISTRY.create("barlow", **{"width": 6, **parameters})
    head = barlow.build(encoder, GRID, 3, 10, plain_attention=plain)
    assert isinstance(head, BarlowHead)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def images(seed: int, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 12, 16, generator=generator).to(torch.get_default_dtype())


def given(*views: View) -> Examples:
    clean = tuple(view.images for view in views)
    views = tuple(complete(view, view.images, GRID) for view in views)
    return Examples(views, clean, torch.zeros(len(clean[0]), dtype=torch.long))


def features(seed: int, count: int = 7, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(width, generator=generator, dtype=torch.float64) + 0.2
    return torch.randn(count, width, generator=generator, dtype=torch.float64) * scale + 3 * scale


def standardised(rows: list[list[float]]) -> list[list[float]]:
    """Each feature less its mean, over the root of its biased variance and 1e-5."""
    count, width = len(rows), len(rows[0])
    out = [[0.0] * width for _ in rows]
    for j in range(width):
        mean = sum(row[j] for row in rows) / count
        variance = sum((row[j] - mean) ** 2 for row in rows) / count
        for i in range(count):
            out[i][j] = (rows[i][j] - mean) / math.sqrt(variance + 1e-5)
    return out


def plain_errors(first: list[list[float]], second: list[list[float]]) -> tuple[float, float]:
    """sum of (c_ii - 1)^2, and sum of c_ij^2 for i != j."""
    a, b = standardised(first), standardised(second)
    on = off = 0.0
    for i in range(len(a[0])):
        for j in range(len(a[0])):
            c = sum(one[i] * other[j] for one, other in zip(a, b, strict=True)) / len(a)
            if i == j:
                on += (c - 1) ** 2
            else:
                off += c**2
    return on, off


def plain_projection(head: BarlowHead, rows: list[list[float]]) -> list[list[float]]:
    """Linear, batch norm, ReLU, ..., linear, over one crop's batch alone."""
    for part in head.project:
        if isinstance(part, nn.Linear):
            assert part.bias is None
            weight = part.weight.tolist()
            rows = [[sum(w * x for w, x in zip(unit, row, strict=True)) for unit in weight] for row in rows]
        elif isinstance(part, nn.BatchNorm1d):
            weight, bias = part.weight.tolist(), part.bias.tolist()
            rows = [[w * x + b for w, x, b in zip(weight, row, bias, strict=True)] for row in standardised(rows)]
        else:
            assert isinstance(part, nn.ReLU)
            rows = [[max(x, 0.0) for x in row] for row in rows]
    return rows


def plain_pooled(head: BarlowHead, view: View) -> list[list[float]]:
    """Mean patch and class token of what the view leaves, one image at a time and without padding."""
    rows = []
    for row in range(len(view.images)):
        hidden = None if view.hidden is None else view.hidden[row]
        replaced = None if view.replaced is None else view.replaced[row]
        embedded = head.encoder.embed_patches(view.images[row : row + 1])[0]
        positions = head.encoder.vit.pos_embed[0, 1:]
        sequence = [head.encoder.prefix_tokens(1)[0, 0]]
        for token in range(12):
            if replaced is not None and replaced[token]:
                sequence.append(head.encoder.mask_token[0, 0] + positions[token])
            elif hidden is None or not hidden[token]:
                sequence.append(embedded[token])
        tokens = torch.stack(sequence)[None]
        for block in head.encoder.vit.blocks:
            tokens = block(tokens)
        tokens = head.encoder.vit.norm(tokens)[0]
        mean = sum(tokens[1:].unbind(0)) / max(len(tokens) - 1, 1) if len(tokens) > 1 else torch.zeros_like(tokens[0])
        rows.append([*mean.tolist(), *tokens[0].tolist()])
    return rows


def test_the_errors_are_those_of_the_cross_correlation() -> None:
    first, second = features(0), features(1) + features(0)
    on, off = correlation_errors(first, second)
    expected = plain_errors(first.tolist(), second.tolist())
    assert (float(on), float(off)) == pytest.approx(expected, rel=1e-10)
    assert min(expected) > 0.1


def test_the_small_variance_is_added_to() -> None:
    first, second = 0.003 * features(0), 0.002 * features(1)  # variances of about 1e-5
    errors = tuple(float(error) for error in correlation_errors(first, second))
    assert errors == pytest.approx(plain_errors(first.tolist(), second.tolist()), rel=1e-10)


@pytest.mark.parametrize("layers", [1, 2, 3])
@torch.no_grad()
def test_the_loss_of_two_crops_is_the_published_one(layers: int) -> None:
    head = head_for(layers=layers, redundancy=0.03, scale=0.5).train()
    views = View(images(1)), View(images(2))
    double = head_for(layers=layers).double()
    double.load_state_dict(head.state_dict())
    pooled = [plain_pooled(double, View(view.images.double())) for view in views]
    on, off = plain_errors(*(plain_projection(double, rows) for rows in pooled))
    outcome = head(given(*views))
    assert float(outcome.loss) == pytest.approx(0.5 * (on + 0.03 * off), rel=1e-4)
    assert float(outcome.logs["loss/invariance"]) == pytest.approx(on, rel=1e-4)
    assert float(outcome.logs["loss/redundancy"]) == pytest.approx(off, rel=1e-4)


def test_the_projector_is_the_published_one() -> None:
    head = head_for(layers=3, width=6)
    kinds = [type(part).__name__ for part in head.project]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [tuple(part.weight.shape) for part in head.project[::3]] == [(6, 2 * 16), (6, 6), (6, 6)]
    assert all(part.bias is None for part in head.project[::3])
    alone = head_for(kwargs={"class_token": False, "global_pool": "avg"})
    assert alone.project[0].weight.shape == (6, 16)
    assert torch.isfinite(alone(given(View(images(1)), View(images(2)))).loss)


def test_the_gradient_of_the_errors_agrees_with_finite_differences() -> None:
    first, second = features(0).requires_grad_(), (features(1) + features(0)).requires_grad_()
    on, off = correlation_errors(first, second)
    (on + 0.3 * off).backward()
    # The error of a central difference is about step^2 and rounding / step = 1e-15 / 1e-6, both below 1e-8.
    step = 1e-6
    for changed in (first, second):
        for i in range(7):
            for j in range(5):
                values = []
                for sign in (1, -1):
                    moved = [value.detach().clone() for value in (first, second)]
                    moved[0 if changed is first else 1][i, j] += sign * step
                    on, off = plain_errors(*(value.tolist() for value in moved))
                    values.append(on + 0.3 * off)
                expected = (values[0] - values[1]) / (2 * step)
                assert changed.grad is not None
                assert float(changed.grad[i, j]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_the_loss_agrees_with_finite_differences() -> None:
    head = head_for(redundancy=0.1).train()
    hidden = torch.zeros(5, 12, dtype=torch.bool)
    hidden[0, :9] = hidden[1, 2:4] = hidden[3, 5] = True
    views = given(View(images(1), hidden), View(images(2), hidden.flip(0)))
    head(views).loss.backward()
    vit, project, step = head.encoder.vit, head.project, 1e-6
    for parameter in (vit.patch_embed.proj.weight, vit.cls_token, vit.pos_embed, project[0].weight, project[4].bias):
        flat, gradient = parameter.data.view(-1), parameter.grad.reshape(-1)
        assert gradient.abs().max() > 1e-4
        for place in {int(gradient.abs().argmax()), len(flat) // 2}:
            kept, values = float(flat[place]), []
            for sign in (1, -1):
                with torch.no_grad():
                    flat[place] = kept + sign * step
                    values.append(float(head(views).loss))
                    flat[place] = kept
            expected = (values[0] - values[1]) / (2 * step)
            assert float(gradient[place]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def hadamard() -> Tensor:
    """(8, 8) with orthogonal columns of +-1; all but the first have mean 0."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(3):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def test_closed_forms() -> None:
    decorrelated = hadamard()[:, 1:]

    def errors(first: Tensor, second: Tensor) -> tuple[float, float]:
        on, off = correlation_errors(first, second)
        return float(on), float(off)

    # c_ii = 1 / (1 + 1e-5): the variance is 1 and the epsilon 1e-5.
    assert errors(decorrelated, decorrelated) == pytest.approx((7e-10, 0.0), rel=1e-3, abs=1e-12)
    assert errors(decorrelated, -decorrelated) == pytest.approx((7 * 4.0, 0.0), rel=1e-4, abs=1e-12)
    assert errors(decorrelated, decorrelated.roll(1, 1)) == pytest.approx((7.0, 7.0), rel=1e-4)
    repeated = decorrelated[:, :1].expand(-1, 6)
    assert errors(repeated, repeated) == pytest.approx((0.0, 30.0), rel=1e-4, abs=1e-8)
    constant = torch.full((8, 7), 2.5, dtype=torch.float64)  # collapsed: nothing correlates
    assert errors(constant, constant) == pytest.approx((7.0, 0.0), abs=1e-12)


def test_invariances_of_the_errors() -> None:
    first, second = features(0, 9), features(1, 9) + features(0, 9)
    base = torch.stack(correlation_errors(first, second))
    factor, shift = torch.tensor([2.0, 0.5, 10.0, 1.0, 4.0]), torch.tensor([1.0, -2.0, 0.0, 30.0, 5.0])
    # The epsilon of 1e-5 is below 1e-3 of each variance here, and enters as its share of it.
    scaled = torch.stack(correlation_errors(first * factor + shift, second * factor.flip(0) - shift))
    torch.testing.assert_close(scaled, base, rtol=2e-3, atol=0)
    both_turned = torch.stack(correlation_errors(-first, -second))
    torch.testing.assert_close(both_turned, base)
    order = torch.tensor([3, 0, 8, 1, 7, 2, 6, 4, 5])
    torch.testing.assert_close(torch.stack(correlation_errors(first[order], second[order])), base)
    torch.testing.assert_close(torch.stack(correlation_errors(second, first)), base)  # c is transposed
    assert not torch.isclose(torch.stack(correlation_errors(first[order], second)), base, rtol=0.05).any()


def test_independent_gaussian_features_cost_what_chance_says() -> None:
    count, width = 64, 40
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, count, width, generator=generator, dtype=torch.float64)
    on, off = correlation_errors(first, second)
    # A standardised Gaussian feature is uniform on the unit sphere of the n = N - 1 dimensions orthogonal to (1..1), so
    # c is one coordinate of such a point: mean 0, E c^2 = 1/n, var c^2 = 2 (n - 1) / (n^2 (n + 2)), and any two c are
    # independent. On the diagonal (1 - c)^2 = 1 - 2c + c^2: mean 1 + 1/n, variance 4/n + var c^2, as c and c^2 are
    # uncorrelated. The epsilon of 1e-5 moves c by at most 1e-4 of itself.
    n = count - 1
    spread = 2 * (n - 1) / (n**2 * (n + 2))
    assert abs(float(on) - width * (1 + 1 / n)) < 4 * math.sqrt(width * (4 / n + spread)) + 1e-3 * width
    pairs = width * (width - 1)
    assert abs(float(off) - pairs / n) < 4 * math.sqrt(pairs * spread) + 1e-3 * pairs / n
    # So the loss is about D + redundancy * D * (D - 1) / N.
    assert float(on + 0.0051 * off) == pytest.approx(width + 0.0051 * pairs / count, rel=0.15)


@torch.no_grad()
def test_batch_norm_sees_one_crop_at_a_time() -> None:
    head = head_for().train()
    views = [View(images(1)), View(images(2)), View(5 * images(3))]
    first = head.features(views[0])
    norms = [part for part in head.project if isinstance(part, nn.BatchNorm1d)]
    for other in views[1:]:  # another second crop leaves the first one's features as they are
        seen: list[Tensor] = []
        hook = head.project.register_forward_hook(lambda module, given, made, seen=seen: seen.append(made))
        head(given(views[0], other))
        hook.remove()
        assert torch.equal(seen[0], first)
        assert torch.equal(seen[1], head.features(other))
    # Running moments, which nothing but eval mode reads, take in the first crop and then the second.
    inputs: list[Tensor] = []
    hook = norms[0].register_forward_hook(lambda module, given, made: inputs.append(given[0]))
    norms[0].reset_running_stats()
    head(given(views[0], views[2]))
    hook.remove()
    mean = 0.9 * (0.1 * inputs[0].mean(0)) + 0.1 * inputs[1].mean(0)
    torch.testing.assert_close(norms[0].running_mean, mean)


@torch.no_grad()
def test_within_a_crop_an_image_moves_the_others_through_the_batch_norm_alone() -> None:
    head, x = head_for(), images(1)
    changed = x.clone()
    changed[4] = 3.0 * images(2)[4]
    pooled = torch.tensor(plain_pooled(head, View(x)))[:4]
    torch.testing.assert_close(torch.tensor(plain_pooled(head, View(changed)))[:4], pooled)
    head.train()
    assert not torch.allclose(head.features(View(x))[:4], head.features(View(changed))[:4], atol=1e-3)
    head.eval()
    torch.testing.assert_close(head.features(View(x))[:4], head.features(View(changed))[:4])


def uneven() -> dict[str, Tensor]:
    hidden, replaced, thrown = (torch.zeros(5, 12, dtype=torch.bool) for _ in range(3))
    hidden[0, :11] = hidden[1, 2:4] = hidden[3, ::2] = hidden[4, 1:7] = True  # the third image hides nothing
    replaced[1, 3] = replaced[4, 1:3] = True
    thrown[3, 0] = thrown[4, 5] = True
    return {"hidden": hidden, "replaced": replaced, "thrown": thrown}


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fused"])
@torch.no_grad()
def test_padding_does_not_change_the_pooled_features(plain: bool) -> None:
    head = head_for(plain=plain).eval()
    head.project = nn.Sequential()
    view = View(images(1), **uneven())  # type: ignore[arg-type]
    assert view.length is None
    expected = torch.tensor(plain_pooled(head, view))
    torch.testing.assert_close(head.features(view), expected, rtol=1e-4, atol=1e-5)
    even = torch.zeros(5, 12, dtype=torch.bool)
    even[:, 3:9] = True
    padded, exact = head.features(View(images(1), even)), head.features(View(images(1), even, length=6))
    torch.testing.assert_close(padded, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exact, torch.tensor(plain_pooled(head, View(images(1), even))), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_image_with_everything_hidden_is_its_class_token() -> None:
    head, hidden = head_for().eval(), torch.zeros(5, 12, dtype=torch.bool)
    head.project = nn.Sequential()
    hidden[2] = True
    got = head.features(View(images(1), hidden))
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, torch.tensor(plain_pooled(head, View(images(1), hidden))), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hidden_pixels_reach_nothing_and_visible_ones_do() -> None:
    head, masks = head_for().train(), uneven()
    views = [View(images(seed), **masks) for seed in (1, 2)]  # type: ignore[arg-type]
    base = head(given(*views)).loss
    for crop in (0, 1):
        for chosen, same in ((masks["hidden"], True), (~masks["hidden"], False)):
            changed = torch.where(GRID.pixels(chosen), torch.full((), 9.0), views[crop].images)
            others = list(views)
            others[crop] = View(changed, **masks)  # type: ignore[arg-type]
            assert torch.equal(head(given(*others)).loss, base) == same


@torch.no_grad()
def test_autocast_leaves_the_errors_in_single_precision() -> None:
    # Two crops that nearly agree: c_ii is just below 1, where bfloat16 knows 0.996 and 1.
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(256, 128, generator=generator)
    second = first + 0.05 * torch.randn(256, 128, generator=generator)
    expected = [float(error) for error in correlation_errors(first.double(), second.double())]
    with torch.autocast("cpu", torch.bfloat16):
        got = correlation_errors(first, second)
    assert all(error.dtype == torch.float32 for error in got)
    assert [float(error) for error in got] == pytest.approx(expected, rel=1e-3)


def test_every_part_but_the_mask_token_is_trained() -> None:
    head = head_for()
    head(given(View(images(1)), View(images(2)))).loss.backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == ["encoder.mask_token"]
