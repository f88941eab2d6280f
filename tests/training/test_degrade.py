"""A strategy in anybody's loop: with the numbers of the images, the masks are those of a run."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskbench import degrade
from maskbench.core.view import View
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.strategy import REGISTRY
from maskbench.training.crops import make_crops
from maskbench.training.views import make_context, make_view
from tests.helpers.tiny_run import tiny_config

OTHERS = {"adios", "curriculum", "none"}  # two that train a network, and one that hides nothing
PLAIN = [name for name in REGISTRY.names() if not REGISTRY.create(name).needs and name not in OTHERS]
INDEX = torch.tensor([7, 3, 90, 41, 12, 0, 63, 5])


def tensors_of(view: View) -> list[Tensor | None]:
    terms = [value for term in view.terms for value in (term.target, term.weight)]
    return [view.images, view.hidden, view.replaced, view.thrown, view.condition, *terms]


@pytest.mark.parametrize("name", PLAIN)
def test_with_a_runs_numbers_the_views_are_the_runs(name: str, tmp_path: Path) -> None:
    plan, splits = load_data(make_plan(tiny_config(tmp_path, name, seed=3)))
    state = build_state(plan, splits)
    state.step = 5
    crops = make_crops(plan.config, plan.strategy, splits, splits.train.take(INDEX), INDEX, epoch=2)
    view = make_view(plan.strategy, crops, make_context(plan.config, plan.strategy, state, crops, 2, 0.5))
    own = degrade(
        plan.strategy, crops.images, patch_size=plan.config.model.patch_size, seed=3, epoch=2, index=INDEX, step=5,
        progress=0.5, source=crops.source, module=state.module,
    )  # fmt: skip
    for expected, found in zip(tensors_of(view), tensors_of(own), strict=True):
        assert (expected is None) == (found is None)
        assert expected is None or found is None or torch.equal(expected, found)


def test_other_numbers_give_other_masks_and_the_default_numbers_from_0() -> None:
    images = torch.zeros(8, 3, 32, 32)
    first, second = (degrade("random", images, patch_size=4, index=INDEX + 8 * n).hidden for n in range(2))
    assert first is not None and second is not None and not torch.equal(first, second)
    again = degrade("random", images, patch_size=4, index=INDEX.flip(0)).hidden
    assert again is not None and torch.equal(again.flip(0), first), "an image has its mask wherever it stands"
    unnumbered, numbered = (degrade("random", images, patch_size=4, index=n).hidden for n in (None, torch.arange(8)))
    assert unnumbered is not None and numbered is not None and torch.equal(unnumbered, numbered)


@pytest.mark.parametrize("index", [torch.arange(7), torch.arange(8.0), torch.zeros(8, 1, dtype=torch.int64)])
def test_wrong_numbers_are_one_clear_line(index: Tensor) -> None:
    with pytest.raises(ValueError, match=r"index must be \(8,\) int64, is"):
        degrade("random", torch.zeros(8, 3, 32, 32), patch_size=4, index=index)
