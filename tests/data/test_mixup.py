"""Mixup and CutMix against loops over pixels."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskbench.data.mixup import blend_with_partner, draw_box, mix_batch, paste_from_partner


def batch(count: int = 5, size: tuple[int, int] = (6, 9)) -> tuple[Tensor, Tensor]:
    """Images of which no two pixels are alike, and targets that name the image."""
    images = torch.arange(count * 2 * math.prod(size)).float().view(count, 2, *size)
    return images, torch.eye(count)


def test_mixup_by_hand() -> None:
    images, targets = batch()
    made, shares = blend_with_partner(images, 0.3), blend_with_partner(targets, 0.3)
    for number in range(5):
        torch.testing.assert_close(made[number], 0.3 * images[number] + 0.7 * images[4 - number])
        torch.testing.assert_close(shares[number], 0.3 * targets[number] + 0.7 * targets[4 - number])


@pytest.mark.parametrize("box", [(slice(1, 4), slice(0, 9)), (slice(0, 6), slice(2, 3)), (slice(2, 2), slice(1, 5))])
def test_cutmix_pixel_by_pixel(box: tuple[slice, slice]) -> None:
    images, targets = batch()
    before = images.clone()
    made, shares = paste_from_partner(images, targets, box)
    inside = 0
    for row in range(6):
        for col in range(9):
            cut = box[0].start <= row < box[0].stop and box[1].start <= col < box[1].stop
            inside += cut
            for number in range(5):
                source = 4 - number if cut else number
                assert torch.equal(made[number, :, row, col], before[source, :, row, col])
    for number in (0, 1, 3, 4):
        assert shares[number, 4 - number].item() == pytest.approx(inside / 54, abs=1e-7)
        assert shares[number, number].item() == pytest.approx(1 - inside / 54, abs=1e-7)
    assert shares[2, 2] == 1, "the middle one is its own partner"
    assert torch.equal(images, before), "what is given stays as it is"


def test_boxes_are_centred_and_cut_off() -> None:
    class Fixed:
        def __init__(self, *places: int) -> None:
            self.places = iter(places)

        def integers(self, high: int) -> int:
            return next(self.places)

    for share in (0.0, 0.1, 0.5, 0.93, 1.0):
        rows, cols = int(6 * math.sqrt(1 - share)), int(9 * math.sqrt(1 - share))
        for row in range(6):
            for col in range(9):
                generator: Any = Fixed(row, col)
                down, across = draw_box(generator, (6, 9), share)
                assert [y for y in range(6) if row - rows // 2 <= y < row + (rows + 1) // 2] == list(range(6))[down]
                assert [x for x in range(9) if col - cols // 2 <= x < col + (cols + 1) // 2] == list(range(9))[across]
                assert 0 <= down.start <= down.stop <= 6 and 0 <= across.start <= across.stop <= 9


def test_one_of_both_at_even_odds() -> None:
    """Whole numbers of an image's own pixels are left by CutMix alone."""
    images, targets = batch(2, (8, 8))
    cuts, shares, draws = 0, [], 2000
    for seed in range(draws):
        made, mixture = mix_batch(images, targets, np.random.default_rng(seed), mixup=0.8, cutmix=1.0)
        torch.testing.assert_close(mixture.sum(1), torch.ones(2))
        cut = bool(torch.isin(made, images).all())
        cuts += cut
        if cut:
            own = (made[0] == images[0]).double().mean().item()
            assert mixture[0, 0].item() == pytest.approx(own, abs=1e-6), "the share is the area"
        else:
            shares.append(mixture[0, 0].item())
            torch.testing.assert_close(
                made[0], shares[-1] * images[0] + (1 - shares[-1]) * images[1], rtol=1e-4, atol=1e-4
            )
    assert abs(cuts / draws - 0.5) < 4 * math.sqrt(0.25 / draws)
    # Beta(a, a) has the variance 1 / (4 (2 a + 1)), here 0.096; a square deviation from 1/2 has a sd below 1/8.
    assert abs(np.mean(shares) - 0.5) < 4 * math.sqrt(0.096 / len(shares))
    assert abs(np.mean((np.array(shares) - 0.5) ** 2) - 1 / (4 * 2.6)) < 4 / 8 / math.sqrt(len(shares))


def test_either_alone_or_none() -> None:
    images, targets = batch(2)
    for seed in range(50):
        made, _ = mix_batch(images, targets, np.random.default_rng(seed), mixup=0.0, cutmix=1.0)
        assert torch.isin(made, images).all()
        made, shares = mix_batch(images, targets, np.random.default_rng(seed), mixup=0.8, cutmix=0.0)
        torch.testing.assert_close(made, blend_with_partner(images, float(shares[0, 0])), rtol=1e-4, atol=1e-4)
        again, _ = mix_batch(images, targets, np.random.default_rng(seed), mixup=0.8, cutmix=0.0)
        assert torch.equal(made, again)
    made, shares = mix_batch(images, targets, np.random.default_rng(0), mixup=0.0, cutmix=0.0)
    assert torch.equal(made, images) and torch.equal(shares, targets)
