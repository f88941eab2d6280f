"""Counts, hiding, and the way between patches and pixels."""

import pytest
import torch
from scipy import stats

from maskbench.core.grid import Grid, hide, membership


@pytest.mark.parametrize(
    ("size", "ratio", "hidden"),
    # MAE truncates the kept count, so the hidden count rounds up. At 64 tokens and 0.6 it is 39, not 38.
    [
        (196, 0.75, 147),
        (196, 0.6, 118),
        (196, 0.7, 138),
        (196, 0.8, 157),
        (196, 0.9, 177),
        (196, 0.5, 98),
        (64, 0.6, 39),
    ],
)
def test_count_is_maes(size: int, ratio: float, hidden: int) -> None:
    assert Grid(1, size, 4).count(ratio) == hidden


def test_count_absorbs_binary_rounding() -> None:
    # 10 * (1 - 0.9) is 0.9999999999999998 in binary; one of ten tokens is meant to stay.
    assert Grid(1, 10, 4).count(0.9) == 9


def test_count_of_a_tensor_equals_that_of_its_floats() -> None:
    ratios = torch.linspace(0.01, 0.99, 97, dtype=torch.float64)
    grid = Grid(14, 14, 16)
    assert grid.count(ratios).tolist() == [grid.count(float(ratio)) for ratio in ratios]


def test_single_precision_hides_as_many_as_double() -> None:
    # 0.3 is 0.3000000119 in float32: 100 of these are 70.0 kept minus a bit, which must stay 70.
    ratios = [number / 100 for number in range(1, 100)]
    for grid in (Grid(10, 10, 4), Grid(32, 32, 16)):
        assert grid.count(torch.tensor(ratios)).tolist() == [grid.count(ratio) for ratio in ratios]


def test_hide_takes_the_largest() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    expected = torch.tensor([[False, True, False, True], [True, True, False, False]])
    assert torch.equal(hide(scores, 2), expected)
    assert torch.equal(hide(scores, torch.tensor([[2], [2]])), expected)
    assert hide(scores, torch.tensor([[0], [4]])).sum(1).tolist() == [0, 4]
    assert hide(scores, 0).sum() == 0


def test_membership_is_start_up_to_end() -> None:
    starts = [start for start in range(-2, 9) for _ in range(8)]
    extents = [extent for _ in range(-2, 9) for extent in range(8)]
    inside = membership(torch.tensor(starts), torch.tensor(extents), 7)
    expected = [
        [float(start <= cell < start + extent) for cell in range(7)]
        for start, extent in zip(starts, extents, strict=True)
    ]
    assert inside.tolist() == expected


def test_random_scores_hide_every_subset_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = hide(torch.rand(20_000, 6, generator=generator), 3)
    codes = (hidden.long() * 2 ** torch.arange(6)).sum(1)
    counts = torch.bincount(codes, minlength=64)
    counts = counts[counts > 0].numpy()
    assert len(counts) == 20  # 6 choose 3
    assert stats.chisquare(counts).pvalue > 1e-4


def test_patchify_and_back() -> None:
    grid = Grid(2, 3, 4)
    images = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12).float()
    patches = grid.patchify(images)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(grid.unpatchify(patches), images)
    # Token 4 is row 1, column 1; its values run by row, column, channel.
    by_hand = images[0, :, 4:8, 4:8].permute(1, 2, 0).reshape(-1)
    assert torch.equal(patches[0, 4], by_hand)


def test_pixels_spreads_each_token_over_its_patch() -> None:
    grid = Grid(2, 3, 2)
    pixels = grid.pixels(torch.arange(6.0)[None])
    assert pixels.shape == (1, 1, 4, 6)
    assert torch.equal(pixels[0, 0], torch.arange(6.0).view(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="30x32 do not divide into patches of 4"):
        Grid.of(torch.zeros(1, 3, 30, 32), 4)
