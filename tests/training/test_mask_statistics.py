"""What masks look like in numbers, against counting by hand."""

import pytest
import torch

from maskbench.core.grid import Grid
from maskbench.core.view import Term, View, complete
from maskbench.training.mask_statistics import diagnose, hidden_tokens

GRID = Grid(3, 4, 2)
IMAGES = torch.zeros(2, 1, 6, 8)
FIRST = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]], dtype=torch.bool)
SECOND = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]], dtype=torch.bool)


def view(hidden: torch.Tensor) -> View:
    return complete(View(IMAGES, hidden), IMAGES, GRID)


def test_figures_are_what_counting_gives() -> None:
    # first image: {0, 1}, {7, 11}, {8}: 3 groups of 5 patches; second: {4}, {6}: 2 groups of 2
    objects = torch.zeros(2, 12)
    objects[0, :4] = 1.0  # 2 of 4 hidden
    objects[1, 6] = 0.5  # hidden
    found = diagnose(view(FIRST), view(SECOND), GRID, objects)
    assert found["realised_ratio_mean"] == pytest.approx((5 / 12 + 2 / 12) / 2)
    assert found["realised_ratio_sd"] == pytest.approx((5 / 12 - 2 / 12) / 2)
    assert found["visible_tokens"] == (7 + 10) / 2
    assert found["components"] == 2.5
    assert found["group_size"] == pytest.approx(7 / 5)
    assert found["overlap"] == pytest.approx(3 / 7)
    assert found["coverage"] == [[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0.5], [0.5, 0, 0, 0.5]]
    assert found["object_hidden"] == pytest.approx(2.5 / 4.5)


def test_pixels_count_as_hidden_where_half_of_a_patch_is() -> None:
    weight = torch.zeros(2, 1, 6, 8)
    weight[0, 0, :2, :3] = 1  # patch 0 whole, half of patch 1
    weight[0, 0, 4, 7] = 1  # a quarter of patch 11
    hidden = hidden_tokens(complete(View(IMAGES, terms=(Term(weight=weight),)), IMAGES, GRID), GRID)
    assert hidden is not None
    assert hidden[0].nonzero()[:, 0].tolist() == [0, 1]
    assert not hidden[1].any()


def test_what_is_degraded_everywhere_has_no_groups() -> None:
    everything = complete(View(IMAGES), IMAGES, GRID)
    assert hidden_tokens(everything, GRID) is None
    assert set(diagnose(everything, everything, GRID)) == {
        "realised_ratio_mean",
        "realised_ratio_sd",
        "visible_tokens",
    }
