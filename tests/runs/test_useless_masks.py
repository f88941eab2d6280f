"""Masks that hide nothing or everything: refused where it is all of them, else said with their share."""

from pathlib import Path
from typing import Any

import pytest
import torch

from maskbench.core.grid import Grid
from maskbench.core.view import Term, View, complete, hides_nothing, shows_nothing
from maskbench.errors import UsageError
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.runs.run import check_run, run
from maskbench.runs.useless_masks import count_useless_masks
from tests.helpers.reporters import StoppingReporter
from tests.helpers.tiny_run import tiny_config

GRID = Grid(2, 2, 4)
IMAGES = torch.zeros(3, 1, 8, 8)


def test_what_counts_as_hiding_nothing_or_everything() -> None:
    hidden = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    view = complete(View(IMAGES, hidden), IMAGES, GRID)
    assert hides_nothing(view, GRID).tolist() == [True, False, False]
    assert shows_nothing(view).tolist() == [False, False, True]
    weight = torch.zeros(3, 1, 8, 8)
    weight[1, 0, 3, 3] = 1
    weight[2] = 1
    pixels = complete(View(IMAGES, terms=(Term(weight=weight),)), IMAGES, GRID)
    assert hides_nothing(pixels, GRID).tolist() == [True, False, False]
    assert not shows_nothing(pixels).any(), "degraded everywhere, but seen"
    nothing = complete(View(IMAGES, terms=()), IMAGES, GRID)
    assert not hides_nothing(nothing, GRID).any(), "that is what it is for"


def on_grid(rows: int, cols: int, folder: Path, strategy: str, **changes: Any) -> Any:
    return tiny_config(folder, strategy, data__img_size=f"{4 * rows}x{4 * cols}", **changes)


@pytest.mark.parametrize(
    ("strategy", "side", "what"),
    [
        ("block:ratio=0.99", 2, "nothing"),
        ("multi-block:ratio=0.85", 2, "everything"),
        ("attention-throw:start=0", 2, "everything"),
        ("random-coarse", 2, "everything"),
    ],
)
def test_masks_that_are_all_useless_are_refused_at_the_start(
    strategy: str, side: int, what: str, tmp_path: Path
) -> None:
    name = strategy.partition(":")[0]
    with pytest.raises(
        UsageError, match=f"{name} hides (all {side**2} patches|{what} of every image on 2 x 2 patches)"
    ):
        check_run(on_grid(side, side, tmp_path, strategy))
    assert not list(tmp_path.iterdir())


def test_shares_are_in_the_record_and_a_warning(tmp_path: Path) -> None:
    """`block` on 4 x 4 patches finds no room for a rectangle in most images."""
    reporter = StoppingReporter()
    record = run(on_grid(4, 4, tmp_path, "block", train__epochs=1), reporter=reporter)
    share = record.diagnostics["hides_nothing"]
    assert isinstance(share, float)
    assert 0.55 < share < 0.8
    assert record.diagnostics["hides_everything"] == 0
    (warning,) = [line for line in record.warnings if "hides nothing" in line]
    assert "of the images on 4 x 4 patches (256 masks tried)" in warning
    assert abs(float(warning.split("nothing of ")[1].split("%")[0]) / 100 - share) < 0.12
    assert [line for line in reporter.said if warning in line]


@pytest.mark.parametrize("strategy", ["block-ibot", "block-dinov2", "attmask-high"])
def test_images_left_whole_on_purpose_need_no_warning(strategy: str, tmp_path: Path) -> None:
    plan, splits = load_data(make_plan(on_grid(8, 8, tmp_path, strategy)))
    useless = count_useless_masks(plan.config, plan.strategy, splits, build_state(plan, splits))
    assert (useless.empty, useless.full, useless.warning) == (0, 0, None)


def test_images_shown_nothing_of_are_counted(tmp_path: Path) -> None:
    plan, splits = load_data(make_plan(on_grid(3, 3, tmp_path, "cluster")))
    useless = count_useless_masks(plan.config, plan.strategy, splits, build_state(plan, splits))
    assert 0.02 < useless.full < 0.4
    assert useless.reason_to_refuse is None
    assert useless.warning is not None
    assert "cluster hides everything of" in useless.warning
