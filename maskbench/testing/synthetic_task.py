"""What objectives and probes under test get: a tiny encoder, views of random images, and a tiny labelled data set."""

from collections.abc import Callable

import torch
from torch import Tensor

from maskbench.config.settings import System
from maskbench.core.examples import Examples
from maskbench.core.grid import Grid, hide
from maskbench.core.view import View, complete
from maskbench.data.splits import Images, Splits, build_splits
from maskbench.models.encoder import Encoder, build_encoder
from maskbench.objective import Head, Objective, Recipe

GRID = Grid(4, 6, 4)  # rows and columns differ, so that a mistaken order is noticed
CHANNELS, CLASSES = 3, 3


def make_encoder(grid: Grid = GRID) -> Encoder:
    """An untrained ViT, 32 wide and 2 deep, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        kwargs = {"embed_dim": 32, "depth": 2, "num_heads": 2}
        return build_encoder("vit_tiny_patch16_224", grid, CHANNELS, kwargs, plain_attention=True)


def make_head(objective: Objective, seed: int = 2) -> Head:
    """What the objective builds on such an encoder."""
    encoder = make_encoder()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return objective.build(encoder, GRID, CHANNELS, CLASSES, plain_attention=True)


def make_examples(objective: Objective, recipe: Recipe, *, hidden: bool, size: int = 32) -> Examples:
    """Views of random images. hidden: three quarters of the tokens are hidden; else all see noisy pixels."""
    generator = torch.Generator().manual_seed(6)
    height, width = GRID.image_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=generator)

    clean = tuple(normal(CHANNELS, height, width) for _ in recipe.full)
    views = tuple(_make_view(objective, images, normal, hidden=hidden) for images in clean)
    rows, cols = (max(1, round(side * recipe.local_size / GRID.patch)) * GRID.patch for side in GRID.image_size)
    local = tuple(normal(CHANNELS, rows, cols) for _ in range(recipe.local))
    return Examples(views, clean, torch.arange(size) % CLASSES, local)


def _make_view(objective: Objective, images: Tensor, normal: Callable[..., Tensor], *, hidden: bool) -> View:
    level = torch.ones(len(images)) if objective.takes_noise_level else None
    if not hidden:
        return complete(View(images + 0.3 * normal(*images.shape[1:]), condition=level), images, GRID)
    count = GRID.count(0.75)
    masks = hide(normal(GRID.size), count)
    return complete(View(images, masks, length=GRID.size - count, condition=level), images, GRID)


def make_splits(train: int = 60, test: int = 24) -> Splits:
    """Noisy images with a bright channel each, which is the class."""
    return build_splits(
        "noise", _make_images(train, 1), _make_images(test, 2), classes=("red", "green", "blue"), fingerprint="noise"
    )


def _make_images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(count, generator=generator) % CLASSES
    pixels = torch.randint(0, 120, (count, CHANNELS, *GRID.image_size), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), labels] += 60
    objects = torch.zeros(count, *GRID.image_size, dtype=torch.bool)
    objects[:, :8, :8] = True
    return Images(pixels, labels, torch.ones(count), objects)


def make_system() -> System:
    """A CPU without anything left to choose."""
    return System(device="cpu", precision="fp32", attention="plain", compile=False, workers=0)
