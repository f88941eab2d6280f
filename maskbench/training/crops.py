"""The random crops of a step, the same for every strategy: keyed by (seed, epoch, sample, number of the crop)."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskbench.config.settings import RunConfig
from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.augment import random_boxes, resample, source_margin
from maskbench.data.color_jitter import ColorJitter, jitter_colors
from maskbench.data.prefetch import prefetch
from maskbench.data.splits import Images, Splits
from maskbench.objective import Recipe
from maskbench.strategy import Strategy


@dataclass(frozen=True)
class Crops:
    """Random crops of a batch of images.

    Attributes:
        images: (B, C, H, W), normalised.
        source: (B, C, H', W'), the wider crops of which they are the centre, if the strategy wants them.
        labels: (B,) int64.
        index: (B,) int64, the numbers of the images.
        number: Which of each image's crops these are, from 0.
    """

    images: Tensor
    source: Tensor | None
    labels: Tensor
    index: Tensor
    number: int = 0


def make_full_crops(
    config: RunConfig, strategy: Strategy, splits: Splits, recipe: Recipe, images: Images, index: Tensor, epoch: int
) -> list[Crops]:
    """Every crop of the run's image size that the objective wants."""
    return [
        make_crops(config, strategy, splits, images, index, epoch, number, colours)
        for number, colours in enumerate(recipe.full)
    ]


def make_local_crops(
    config: RunConfig, splits: Splits, recipe: Recipe, images: Images, index: Tensor, epoch: int
) -> tuple[Tensor, ...]:
    """The smaller crops (B, C, h, w) that the objective wants, their sides rounded to whole patches."""
    patch = config.model.patch_size
    rows, cols = (max(1, round(side * recipe.local_size / patch)) * patch for side in config.data.img_size)
    crops = []
    for number in range(recipe.local):
        rng = CounterRNG(sample_keys(index, config.seed, "augment-local", epoch, number))
        boxes = random_boxes(rng, images, (rows, cols), recipe.local_scale, flip=config.data.flip)
        pixels = resample(images, boxes, (rows, cols), splits.mean, splits.std)
        if recipe.local_colours is not None:
            pixels = jitter_colors(pixels, recipe.local_colours, rng, splits.mean, splits.std, config.data.img_size)
        crops.append(pixels)
    return tuple(crops)


def make_crops(
    config: RunConfig,
    strategy: Strategy,
    splits: Splits,
    images: Images,
    index: Tensor,
    epoch: int,
    number: int = 0,
    colours: ColorJitter | None = None,
) -> Crops:
    """The epoch's crops of `images`, whose numbers are `index`; `number`: which of each image's crops.

    The box drawn for an image is the same for every strategy; where a wider crop is wanted, the box is the wider one.
    """
    size = config.data.img_size
    rng = CounterRNG(sample_keys(index, config.seed, "augment", epoch, *[number] * (number > 0)))
    boxes = random_boxes(rng, images, size, config.data.crop_scale, flip=config.data.flip)
    top, left = source_margin(size, strategy.source_scale) if strategy.source_scale > 1 else (0, 0)
    source = resample(images, boxes, (size[0] + 2 * top, size[1] + 2 * left), splits.mean, splits.std)
    if colours is not None:
        source = jitter_colors(source, colours, rng, splits.mean, splits.std, size)
    if strategy.source_scale <= 1:
        return Crops(source, None, images.labels, index, number)
    centre = source[:, :, top : top + size[0], left : left + size[1]].contiguous()
    return Crops(centre, source, images.labels, index, number)


def sample_indices(splits: Splits, count: int) -> Tensor:
    """The numbers of `count` training images, or all, at even distances: folders come class by class."""
    total = len(splits.train)
    count = min(count, total)
    return torch.arange(count, device=splits.train.labels.device) * total // count


def sample_crops(
    config: RunConfig,
    strategy: Strategy,
    splits: Splits,
    count: int,
    epoch: int = 0,
    colours: ColorJitter | None = None,
) -> Crops:
    """The epoch's crops of `count` training images, those of `sample_indices`."""
    index = sample_indices(splits, count)
    return make_crops(config, strategy, splits, splits.train.take(index), index, epoch, colours=colours)


def labelled_batches(
    splits: Splits,
    index: Tensor,
    size: tuple[int, int],
    *,
    seed: int,
    stream: str,
    epochs: int,
    batch_size: int,
    scale: tuple[float, float],
    workers: int | Literal["auto"] = 0,
) -> Generator[tuple[Tensor, Tensor]]:
    """For probes that train, to be closed by them: random crops (B, C, *size) with flips, normalised, and labels (B,)
    of the training images `index` (n,), epoch by epoch in whole batches; order and boxes are keyed by (seed, stream,
    epoch, sample)."""
    index = index.to(splits.train.labels.device)

    def batches() -> Iterator[tuple[int, Tensor]]:
        for epoch in range(epochs):
            order = index[sample_keys(index, seed, stream, "order", epoch).argsort()]
            for numbers in order[: len(order) // batch_size * batch_size].split(batch_size):
                yield epoch, numbers

    with prefetch(splits.train, (numbers for _, numbers in batches()), workers) as train:
        for epoch, numbers in batches():
            taken = train.take(numbers)
            boxes = random_boxes(CounterRNG(sample_keys(numbers, seed, stream, epoch)), taken, size, scale)
            yield resample(taken, boxes, size, splits.mean, splits.std), taken.labels
