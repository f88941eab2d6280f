"""The random crops of a step, the same for every strategy: keyed by (seed, epoch, sample, number of the crop)."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskbench.config.schema import RunConfig
from maskbench.core.rng import Draws, keys
from maskbench.data.augment import margin, random_boxes, resample
from maskbench.data.color_jitter import Colours, recoloured
from maskbench.data.prefetch import ahead
from maskbench.data.splits import Images, Splits
from maskbench.objective import Recipe
from maskbench.strategy import Strategy


@dataclass(frozen=True)
class Batch:
    """Random crops: images (B, C, H, W), normalised; source, the wider ones of which they are the centre, if the
    strategy wants them; labels (B,); index (B,) int64, the sample numbers; crop: which of an image's crops it is."""

    images: Tensor
    source: Tensor | None
    labels: Tensor
    index: Tensor
    crop: int = 0


def full_crops(
    config: RunConfig, strategy: Strategy, splits: Splits, recipe: Recipe, taken: Images, index: Tensor, epoch: int
) -> list[Batch]:
    """Every crop of the run's size that the objective wants."""
    return [
        crops(config, strategy, splits, taken, index, epoch, crop, colours) for crop, colours in enumerate(recipe.full)
    ]


def local_crops(
    config: RunConfig, splits: Splits, recipe: Recipe, taken: Images, index: Tensor, epoch: int
) -> tuple[Tensor, ...]:
    """The smaller crops (B, C, h, w) that the objective wants, their sides rounded to whole patches."""
    patch = config.model.patch_size
    rows, cols = (max(1, round(side * recipe.local_size / patch)) * patch for side in config.data.img_size)
    made = []
    for crop in range(recipe.local):
        draws = Draws(keys(index, config.seed, "augment-local", epoch, crop))
        boxes = random_boxes(draws, taken, (rows, cols), recipe.local_scale, flip=config.data.flip)
        images = resample(taken, boxes, (rows, cols), splits.mean, splits.std)
        if recipe.local_colours is not None:
            images = recoloured(images, recipe.local_colours, draws, splits.mean, splits.std, config.data.img_size)
        made.append(images)
    return tuple(made)


def crops(
    config: RunConfig,
    strategy: Strategy,
    splits: Splits,
    taken: Images,
    index: Tensor,
    epoch: int,
    crop: int = 0,
    colours: Colours | None = None,
) -> Batch:
    """The epoch's crops, each image's number `crop`, of the images `taken`, whose numbers are `index`.

    The box drawn for a sample is the same for every strategy; where a wider crop is wanted, the box is the wider one.
    """
    size = config.data.img_size
    draws = Draws(keys(index, config.seed, "augment", epoch, *[crop] * (crop > 0)))
    boxes = random_boxes(draws, taken, size, config.data.crop_scale, flip=config.data.flip)
    top, left = margin(size, strategy.source_scale) if strategy.source_scale > 1 else (0, 0)
    source = resample(taken, boxes, (size[0] + 2 * top, size[1] + 2 * left), splits.mean, splits.std)
    if colours is not None:
        source = recoloured(source, colours, draws, splits.mean, splits.std, size)
    if strategy.source_scale <= 1:
        return Batch(source, None, taken.labels, index, crop)
    images = source[:, :, top : top + size[0], left : left + size[1]].contiguous()
    return Batch(images, source, taken.labels, index, crop)


def sampled(splits: Splits, count: int) -> Tensor:
    """The numbers of `count` training images, or all, at even distances, for folders come class by class."""
    total = len(splits.train)
    count = min(count, total)
    return torch.arange(count, device=splits.train.labels.device) * total // count


def sample(
    config: RunConfig, strategy: Strategy, splits: Splits, count: int, epoch: int = 0, colours: Colours | None = None
) -> Batch:
    """The `sampled` training images as `crops` gives them in `epoch`."""
    index = sampled(splits, count)
    return crops(config, strategy, splits, splits.train.take(index), index, epoch, colours=colours)


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
            order = index[keys(index, seed, stream, "order", epoch).argsort()]
            for numbers in order[: len(order) // batch_size * batch_size].split(batch_size):
                yield epoch, numbers

    with ahead(splits.train, (numbers for _, numbers in batches()), workers) as train:
        for epoch, numbers in batches():
            taken = train.take(numbers)
            boxes = random_boxes(Draws(keys(numbers, seed, stream, epoch)), taken, size, scale)
            yield resample(taken, boxes, size, splits.mean, splits.std), taken.labels
