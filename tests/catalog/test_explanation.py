"""`show --explain`: a page that shows what a strategy does and what its parameters change."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskbench.api import create_strategy
from maskbench.catalog.explanation import _parameter_changes, alternatives
from maskbench.catalog.sample_images import sample_batch
from tests.helpers.command_line import maskbench


@pytest.mark.parametrize("name", ["gmml", "attmask-high", "blur"])
def test_a_page(name: str, tmp_path: Path) -> None:
    done = maskbench("show", name, "--explain", "--img-size", "32", "--output", "page.png", cwd=tmp_path)
    assert done.code == 0 and done.out.strip() == "page.png", done.err
    with Image.open(tmp_path / "page.png") as image:
        assert image.width > 800 and image.height > 800


def test_values_worth_seeing_have_an_order_and_hold_the_strategys_own() -> None:
    gmml, block = create_strategy("gmml"), create_strategy("block", ratio=0.4)
    assert alternatives(gmml, "fill") == ["noise", "zeros", "self", "alien"]
    assert alternatives(gmml, "exact") == [False, True]
    assert alternatives(block, "ratio") == [0.15, 0.3, 0.4, 0.5, 0.75, 0.9]
    assert alternatives(block, "smallest") == [8, 16, 32, 64]
    assert alternatives(gmml, "ratio") == [[0.5, 0.75], 0.15, 0.3, 0.5, 0.75, 0.9]


def test_what_changes_nothing_is_left_out_and_the_own_value_is_marked() -> None:
    found = sample_batch("shapes", "32", 4, 4)
    strategy = create_strategy("random", ratio=0.5)
    changes = dict(_parameter_changes(strategy, found.view(strategy), found, 0))
    titles = [title for title, _ in changes["ratio"]]
    assert titles == ["0.15", "0.3", "0.5 (as above)", "0.75", "0.9"]
    hidden = [np.isclose(picture, 0.82).all(-1).mean() for _, picture in changes["ratio"]]
    assert hidden == pytest.approx([0.15, 0.3, 0.5, 0.75, 0.9], abs=1 / 64 + 1e-9)
    assert "in the course of training" not in changes
    ranged = create_strategy("gmml")
    titles = [title for title, _ in dict(_parameter_changes(ranged, found.view(ranged), found, 0))["ratio"]]
    assert titles == ["0.5 to 0.75 (as above)", "0.15", "0.3", "0.5", "0.75", "0.9"]
    later = create_strategy("hard-patches")
    assert "in the course of training" in dict(_parameter_changes(later, found.view(later), found, 0))


def test_one_strategy_at_a_time(tmp_path: Path) -> None:
    done = maskbench("show", "random", "gmml", "--explain", cwd=tmp_path)
    assert done.code == 2 and "name one strategy to explain" in done.err
    wrong = maskbench("show", "random", "--explain", "--output", "page.gif", cwd=tmp_path)
    assert wrong.code == 2 and "page.gif" in wrong.err
