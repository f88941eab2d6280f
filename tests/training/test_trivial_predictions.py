"""Predictions that understand nothing: what they are, by loops, and what they would lose."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import Term, View, complete
from maskbench.objectives.pixel_loss import pixel_loss
from maskbench.runs.run import run
from maskbench.training.trivial_predictions import sign_of_no_learning, trivial_predictions
from tests.helpers.tiny_run import tiny_config

GRID = Grid(3, 4, 2)
ALL = ("constant", "patch-mean", "input", "neighbours", "nearest")


def images(count: int = 2, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, *GRID.image_size, generator=torch.Generator().manual_seed(1))


def hiding(clean: Tensor, *hidden: int) -> View:
    mask = torch.zeros(len(clean), GRID.size, dtype=torch.bool)
    mask[:, list(hidden)] = True
    return complete(View(clean, mask), clean, GRID)


def patch(image: Tensor, number: int) -> Tensor:
    row, col = divmod(number, GRID.cols)
    return image[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]


def around(number: int, visible: set[int]) -> list[int]:
    row, col = divmod(number, GRID.cols)
    return [other for other in sorted(visible - {number})
            if max(abs(other // GRID.cols - row), abs(other % GRID.cols - col)) == 1]  # fmt: skip


def test_neighbours_and_the_nearest_by_loops() -> None:
    """Patches 0, 1, 4, 5 and 11 are hidden: 0 has no visible neighbour and gets the mean of all."""
    clean = images(channels=3)
    hidden = [0, 1, 4, 5, 11]
    visible = set(range(GRID.size)) - set(hidden)
    found = trivial_predictions(hiding(clean, *hidden), GRID, "none")
    assert set(found) == {"constant", "patch-mean", "neighbours", "nearest"}, "the hidden content is no prediction"
    for number in hidden:
        others = around(number, visible) or sorted(visible)
        mean = torch.stack([patch(clean[0], other) for other in others]).mean(0)
        assert torch.allclose(patch(found["neighbours"][0], number), mean, atol=1e-6)
        distances = {other: math.dist(divmod(number, GRID.cols), divmod(other, GRID.cols)) for other in visible}
        nearest = min(sorted(visible), key=lambda other: distances[other])
        assert torch.equal(patch(found["nearest"][0], number), patch(clean[0], nearest))
        own = patch(clean[0], number).mean((1, 2), keepdim=True).expand(3, 2, 2)
        assert torch.allclose(patch(found["patch-mean"][0], number), own, atol=1e-6)


def test_the_mean_of_a_normalised_patch_loses_all_of_its_variance() -> None:
    """Four values of variance 1 (unbiased) around 0: the mean of their squares is 3/4, but for the 1e-6."""
    view = hiding(images(), 2, 3, 7)
    prediction = trivial_predictions(view, GRID, "patch")["patch-mean"]
    loss, _ = pixel_loss(prediction, view, GRID, normalise="patch", error="l2")
    assert loss.item() == pytest.approx(0.75, abs=1e-3)


def test_degraded_images_predict_themselves() -> None:
    """Where only pixels are degraded; their visible patches are those without weight, or there are none."""
    clean = images()
    weight = torch.zeros(2, 1, *GRID.image_size)
    weight[:, :, :2] = 1
    parts = complete(View(clean + 1, terms=(Term(weight=weight),)), clean, GRID)
    assert set(trivial_predictions(parts, GRID, "none")) == {*ALL}
    whole = complete(View(clean + 1), clean, GRID)
    found = trivial_predictions(whole, GRID, "none")
    assert set(found) == {"constant", "patch-mean", "input"} and torch.equal(found["input"], clean + 1)
    warped = complete(View(clean, terms=(Term(warp=lambda image: image),)), clean, GRID)
    assert set(trivial_predictions(warped, GRID, "none")) == {"constant", "input"}
    assert trivial_predictions(View(clean, terms=()), GRID, "none") == {}


def test_a_training_that_is_no_better_is_said(tmp_path: Path) -> None:
    """At a learning rate of nearly 0; with one that trains, the record has the losses and no line."""
    lazy = run(tiny_config(tmp_path, train__lr=1e-9, train__epochs=26, train__online_every=26, probes="knn"))
    said = [line for line in lazy.warnings if "is not below that of a trivial prediction" in line]
    assert len(said) == 1 and lazy.diagnostics["trivial/nearest"] > 0
    assert run(tiny_config(tmp_path, "none", objective="random-init")).diagnostics == {}


def test_the_best_trivial_prediction_is_named() -> None:
    losses = {"trivial/nearest": 1.2, "trivial/neighbours": 0.9, "trivial/patch-mean": 0.1}
    assert sign_of_no_learning(0.8, losses) is None and sign_of_no_learning(0.8, {}) is None
    assert "the mean of the visible neighbours: 0.9" in (sign_of_no_learning(0.95, losses) or "")
