"""AttMask: what is hidden follows the attention, how much follows the published draws."""

import math

import pytest
import torch

from maskbench.api import degrade
from maskbench.core.grid import Grid
from maskbench.strategy import REGISTRY

GRID = Grid(14, 14, 16)
IMAGES = torch.zeros(400, 1, 224, 224)
ATTENTION = torch.rand(400, 196, generator=torch.Generator().manual_seed(0))


def test_high_hides_the_most_attended() -> None:
    view = degrade("attmask-high", IMAGES, patch_size=16, attention=ATTENTION, masked=1.0, ratio=0.3)
    count = GRID.count(0.3)
    for attention, hidden in zip(ATTENTION[:50], view.hidden[:50], strict=True):
        assert set(hidden.nonzero()[:, 0].tolist()) == set(attention.argsort(descending=True)[:count].tolist())
    assert view.length == 196 - count


@pytest.mark.parametrize("transform", [lambda a: a + 3, lambda a: 7 * a, torch.exp], ids=["shift", "scale", "exp"])
def test_only_the_order_of_attention_matters(transform) -> None:  # type: ignore[no-untyped-def]
    base = degrade("attmask-high", IMAGES, patch_size=16, attention=ATTENTION.double())
    other = degrade("attmask-high", IMAGES, patch_size=16, attention=transform(ATTENTION.double()))
    assert torch.equal(base.hidden, other.hidden)


def test_half_the_images_stay_clean_and_the_others_share_a_ratio() -> None:
    counts = degrade("attmask-high", IMAGES, patch_size=16, attention=ATTENTION).hidden.sum(1)
    clean = int((counts == 0).sum())
    assert abs(clean - 200) < 4 * math.sqrt(400 / 4)
    assert len(counts[counts > 0].unique()) == 1


def test_scope_image_draws_a_ratio_for_each_image() -> None:
    given = {"attention": ATTENTION, "scope": "image", "masked": 1.0}
    share = degrade("attmask-high", IMAGES, patch_size=16, **given).hidden.float().mean(1)
    # Uniform in (.1, .5): mean .3, standard deviation .4 / sqrt(12); counts are rounded up by less than a patch.
    assert abs(float(share.mean()) - 0.3 - 0.5 / 196) < 4 * 0.4 / math.sqrt(12 * 400)
    assert 0.1 <= float(share.min()) < 0.12
    assert 0.48 < float(share.max()) <= 0.5 + 1 / 196


def test_missing_attention_is_named() -> None:
    with pytest.raises(ValueError, match="attmask-high needs attention="):
        degrade("attmask-high", IMAGES, patch_size=16)


def test_matched_leaves_no_image_clean() -> None:
    strategy = REGISTRY.create("attmask-high").matched(0.75)
    view = degrade(strategy, IMAGES, patch_size=16, attention=ATTENTION)
    assert (view.hidden.sum(1) == 147).all()
    assert view.length == 49
