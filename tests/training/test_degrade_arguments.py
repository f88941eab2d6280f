"""`degrade` takes every floating-point type, and answers each mistake by one line in the caller's words."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskbench import Masking, degrade
from maskbench.core.view import View
from maskbench.data.augment import source_margin
from maskbench.errors import UsageError
from maskbench.strategy import REGISTRY, Strategy

B, SIDE, PATCH, N, WIDTH = 4, 32, 8, 16, 6
IMAGES = torch.zeros(B, 3, SIDE, SIDE)
SIZES = {"square": (32, 32), "wide": (16, 40)}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def signals_for(strategy: Strategy, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What the strategy needs, in the images' type."""
    batch, channels, height, width = images.shape
    top, left = source_margin((height, width), strategy.source_scale)
    tokens = (height // PATCH) * (width // PATCH)
    shapes = {
        "attention": (batch, tokens), "patch_loss": (batch, tokens), "parts": (batch, tokens),
        "features": (batch, tokens, WIDTH), "embeddings": (batch, tokens, WIDTH),
        "source": (batch, channels, height + 2 * top, width + 2 * left),
    }  # fmt: skip
    needed = strategy.needs | ({"source"} if strategy.source_scale > 1 else set())
    return {name: torch.rand(shapes[name], generator=generator).to(images.dtype) for name in sorted(needed)}


def view_or_refusal(strategy: Strategy, images: Tensor, generator: torch.Generator) -> tuple[View | None, str]:
    try:
        return degrade(strategy, images, patch_size=PATCH, **signals_for(strategy, images, generator)), ""
    except ValueError as error:
        return None, str(error)


def tensors_of(view: View) -> list[Tensor]:
    terms = [value for term in view.terms for value in (term.target, term.weight)]
    return [value for value in (view.images, view.condition, *terms) if value is not None]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", REGISTRY.names())
def test_a_view_in_the_images_type_or_one_clear_refusal(name: str, size: tuple[int, int]) -> None:
    strategy = REGISTRY.create(name)
    generator = torch.Generator().manual_seed(1)
    for channels in (1, 3, 5):
        pixels = torch.randn(B, channels, *size, generator=generator)
        outcomes = set()
        for dtype in DTYPES:
            images = pixels.to(dtype)
            view, refusal = view_or_refusal(strategy, images, generator)
            outcomes.add(refusal)
            if view is None:
                assert refusal and "\n" not in refusal
                continue
            assert view.images.dtype == dtype and view.images.shape == images.shape
            assert view.hidden is None or view.hidden.dtype == torch.bool
            assert all(value.isfinite().all() for value in tensors_of(view))
            assert all(term.target is not None and term.target.dtype == dtype for term in view.terms)
        assert len(outcomes) == 1, "what is refused depends on the grid and the channels, not on the type"


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"images": np.zeros((B, 3, SIDE, SIDE), np.float32)},
        r"images must be a torch tensor, is numpy ndarray .*from_numpy",
    ),
    ({"images": [[0.0]]}, r"images must be a torch tensor, is list"),
    ({"images": IMAGES.byte()}, r"images must be normalised floats, is torch.uint8; e.g. \(images / 255"),
    ({"images": IMAGES.long()}, r"images must be normalised floats, is torch.int64"),
    ({"images": IMAGES[0]}, r"images must be \(B, C, H, W\), is \(3, 32, 32\); add a dimension: images\[None\]"),
    ({"images": IMAGES[None]}, r"images must be \(B, C, H, W\), is \(1, 4, 3, 32, 32\)"),
    ({"images": IMAGES[:0]}, r"images is \(0, 3, 32, 32\): there is nothing in it"),
    ({"patch_size": 0}, r"patch_size must be a whole number, 1 or more, is 0"),
    ({"patch_size": -4}, r"patch_size must be a whole number, 1 or more, is -4"),
    ({"patch_size": 8.0}, r"patch_size must be a whole number, 1 or more, is 8.0"),
    ({"patch_size": None}, r"patch_size must be a whole number, 1 or more, is None"),
    ({"patch_size": True}, r"patch_size must be a whole number, 1 or more, is True"),
    ({"patch_size": 5}, r"images of 32x32 do not divide into patches of 5; choose another patch_size"),
    ({"seed": None}, r"seed must be a whole number, 0 or more, is None"),
    ({"seed": -1}, r"seed must be a whole number, 0 or more, is -1"),
    ({"epoch": 1.5}, r"epoch must be a whole number, 0 or more, is 1.5"),
    ({"step": "3"}, r"step must be a whole number, 0 or more, is '3'"),
    ({"progress": 2}, r"progress is the share of the training done: a number from 0 to 1, is 2"),
    ({"progress": -0.1}, r"progress is the share .*, is -0.1"),
    ({"progress": float("nan")}, r"progress is the share .*, is nan"),
    ({"progress": "half"}, r"progress is the share .*, is 'half'"),
    ({"index": [0, 1, 2, 3]}, r"index must be \(4,\) int64, is list .*torch.tensor\(index\)"),
    ({"attention": torch.rand(B, N + 1)}, r"attention must be \(4, 16\), .*leave out the class token"),
    ({"attention": torch.rand(B, 2, N)}, r"attention must be \(4, 16\), .* is \(4, 2, 16\)"),
    ({"attention": torch.rand(B - 1, N)}, r"attention must be \(4, 16\), .* is \(3, 16\)"),
    ({"attention": np.zeros((B, N))}, r"attention must be a torch tensor, is numpy ndarray"),
    ({"attention": torch.ones(B, N).long()}, r"attention must be floats, is torch.int64"),
    ({"features": torch.rand(B, N)}, r"features must be \(4, 16, D\), .* is \(4, 16\)"),
    ({"patch_loss": torch.rand(B, N, 1)}, r"patch_loss must be \(4, 16\), .* is \(4, 16, 1\)"),
    ({"attention": torch.rand(B, N, device="meta")}, r"attention is on meta, the images on cpu"),
    ({"module": "net"}, r"module must be what the strategy's build returned"),
    ({"name_or_strategy": REGISTRY.get("random")}, r"is a class; pass .*\(\) or its name"),
    ({"name_or_strategy": 3}, r"pass a strategy or its name, such as 'random'; this is int '3'"),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[said[:32] for _, said in MISTAKES])
def test_a_mistake_is_one_line_in_the_callers_words(changes: dict[str, Any], said: str) -> None:
    given = {"name_or_strategy": "random", "images": IMAGES, "patch_size": PATCH, **changes}
    with pytest.raises(UsageError, match=said) as refused:
        degrade(**given)
    assert "\n" not in str(refused.value)


OF_MASKING = [
    (changes, said) for changes, said in MISTAKES if changes.keys() & {"images", "patch_size", "seed", "epoch"}
]


@pytest.mark.parametrize(("changes", "said"), OF_MASKING, ids=[said[:32] for _, said in OF_MASKING])
def test_masking_answers_the_same_mistakes_in_the_same_words(changes: dict[str, Any], said: str) -> None:
    given = {"images": IMAGES, "patch_size": PATCH, "seed": 0, "epoch": 0, **changes}
    with pytest.raises(UsageError, match=said):
        Masking("random", given["images"], patch_size=given["patch_size"], seed=given["seed"])(
            given["images"], epoch=given["epoch"]
        )


@pytest.mark.parametrize("side", [32, 40, 44])
def test_a_source_of_another_size_is_refused_with_the_size_that_fits(side: int) -> None:
    strategy = REGISTRY.create("zoom-in-mask")
    top, _ = source_margin((SIDE, SIDE), strategy.source_scale)
    right = SIDE + 2 * top
    source = torch.zeros(B, 3, side, side)
    assert side != right, "the test's own sizes are wrong ones"
    with pytest.raises(UsageError, match=rf"source must be \(4, 3, {right}, {right}\) for zoom-in-mask: {top} rows"):
        degrade(strategy, IMAGES, patch_size=PATCH, source=source)


def test_numbers_may_come_from_numpy_and_torch() -> None:
    plain = degrade("random", IMAGES, patch_size=8, seed=3, epoch=2, step=1, progress=0.5)
    typed = degrade(
        "random", IMAGES, patch_size=np.int64(8), seed=np.int32(3), epoch=torch.tensor(2), step=1,
        progress=torch.tensor(0.5),
    )  # type: ignore[arg-type]  # fmt: skip
    assert plain.hidden is not None and typed.hidden is not None and torch.equal(plain.hidden, typed.hidden)


def test_a_module_of_the_callers_is_taken() -> None:
    assert degrade("random", IMAGES, patch_size=8, module=nn.Identity()).hidden is not None
