"""The recovery loss against loops in float64."""

import pytest
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import Term, View, complete
from maskbench.objectives.pixel_loss import normalise_patches, pixel_loss

GRID = Grid(2, 3, 4)
generator = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


IMAGES, PREDICTION = randn(3, 2, 8, 12), randn(3, 2, 8, 12)
HIDDEN = torch.tensor([[1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]]).bool()


def patches(image: Tensor) -> list[Tensor]:
    """The six (C, 4, 4) patches of an image (C, 8, 12), row by row."""
    return [image[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] for r in range(2) for c in range(3)]


def by_hand(normalise: str, error: str) -> float:
    """Sum of the errors of hidden patches over their number of values, one value at a time."""
    total, count = 0.0, 0
    for image, prediction, hidden in zip(IMAGES, PREDICTION, HIDDEN, strict=True):
        for target, guess, masked in zip(patches(image), patches(prediction), hidden, strict=True):
            if not masked:
                continue
            for channel in range(2):
                values = target if normalise == "patch" else target[channel]
                mean, variance = float(values.mean()), float(values.var(correction=1))
                for t, p in zip(target[channel].flatten().tolist(), guess[channel].flatten().tolist(), strict=True):
                    if normalise != "none":
                        t = (t - mean) / (variance + 1e-6) ** 0.5
                    total += abs(p - t) if error == "l1" else (p - t) ** 2
                    count += 1
    return total / count


@pytest.mark.parametrize("normalise", ["none", "patch", "patch-channel"])
@pytest.mark.parametrize("error", ["l1", "l2"])
def test_hidden_patches_over_an_uneven_batch(normalise: str, error: str) -> None:
    view = complete(View(IMAGES, HIDDEN), IMAGES, GRID)
    loss, per_patch = pixel_loss(PREDICTION, view, GRID, normalise=normalise, error=error)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(by_hand(normalise, error), rel=1e-6)
    assert per_patch.shape == (3, 6)
    weighted = (per_patch * HIDDEN).sum() / HIDDEN.sum()
    assert float(weighted) == pytest.approx(float(loss), rel=1e-6)


def test_pixel_weights() -> None:
    weight = (randn(3, 1, 8, 12) > 0).double()
    view = complete(View(IMAGES, terms=(Term(weight=weight),)), IMAGES, GRID)
    loss, _ = pixel_loss(PREDICTION, view, GRID, normalise="none", error="l2")
    total = sum(
        float(weight[i, 0, y, x] * (PREDICTION[i, c, y, x] - IMAGES[i, c, y, x]) ** 2)
        for i in range(3)
        for c in range(2)
        for y in range(8)
        for x in range(12)
    )
    assert float(loss) == pytest.approx(total / (2 * float(weight.sum())))


def test_nothing_hidden_means_everything_is_recovered() -> None:
    view = complete(View(IMAGES), IMAGES, GRID)
    loss, _ = pixel_loss(PREDICTION, view, GRID, normalise="none", error="l1")
    assert float(loss) == pytest.approx(float((PREDICTION - IMAGES).abs().mean()))


def test_replaced_and_thrown_carry_no_loss() -> None:
    replaced, thrown = torch.zeros_like(HIDDEN), torch.zeros_like(HIDDEN)
    replaced[0, 0] = thrown[1, 2] = True
    view = complete(View(IMAGES, HIDDEN, replaced=replaced, thrown=thrown), IMAGES, GRID)
    kept = HIDDEN & ~replaced & ~thrown
    loss, _ = pixel_loss(PREDICTION, view, GRID, normalise="none", error="l2")
    plain = complete(View(IMAGES, kept), IMAGES, GRID)
    assert loss == pixel_loss(PREDICTION, plain, GRID, normalise="none", error="l2")[0]


def test_terms_add_up_by_their_scale() -> None:
    terms = (Term(scale=0.8), Term(target=-IMAGES, weight=torch.ones(1, 1, 8, 12), scale=0.2))
    view = complete(View(IMAGES, HIDDEN, terms=terms), IMAGES, GRID)
    loss, _ = pixel_loss(PREDICTION, view, GRID, normalise="none", error="l2")
    expected = 0.8 * by_hand("none", "l2") + 0.2 * float(((PREDICTION + IMAGES) ** 2).mean())
    assert float(loss) == pytest.approx(expected)


def test_a_batch_with_nothing_weighted_has_no_loss() -> None:
    view = complete(View(IMAGES, torch.zeros_like(HIDDEN)), IMAGES, GRID)
    prediction = PREDICTION.clone().requires_grad_()
    loss, _ = pixel_loss(prediction, view, GRID, normalise="patch", error="l2")
    loss.backward()
    assert loss == 0
    assert (prediction.grad == 0).all()


def test_a_complex_warp_compares_spectra() -> None:
    def fourier(images: Tensor) -> Tensor:
        return torch.fft.fft2(images, norm="ortho")

    weight = torch.zeros(1, 8, 12, dtype=torch.float64)
    weight[:, 0, 1:3] = 1
    view = complete(View(IMAGES, terms=(Term(weight=weight, warp=fourier, warp_target=True),)), IMAGES, GRID)
    loss, _ = pixel_loss(PREDICTION, view, GRID, normalise="none", error="l2")
    difference = torch.fft.fft2(PREDICTION - IMAGES, norm="ortho")
    assert float(loss) == pytest.approx(float(difference[:, :, 0, 1:3].abs().square().mean()))


@pytest.mark.parametrize("shape", [(8, 12), (3,), (6, 3)])
def test_a_weight_of_unclear_meaning_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a term's weight is .*; weigh tokens by \(3, 6\)"):
        complete(View(IMAGES, terms=(Term(weight=torch.ones(shape)),)), IMAGES, GRID)


def test_normalised_patches_have_unit_moments() -> None:
    out = normalise_patches(3 + 5 * IMAGES, 4, "patch-channel")
    for image in out:
        for patch in patches(image):
            assert patch.mean((1, 2)).abs().max() < 1e-6
            assert (patch.var((1, 2)) - 1).abs().max() < 1e-4


def test_gradient_by_finite_differences() -> None:
    view = complete(View(IMAGES, HIDDEN), IMAGES, GRID)

    def loss(prediction: Tensor) -> Tensor:
        return pixel_loss(prediction, view, GRID, normalise="none", error="l2")[0]

    assert torch.autograd.gradcheck(loss, PREDICTION.clone().requires_grad_())
