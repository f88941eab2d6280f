"""Crops, flips and normalisation of a whole batch on its device, with no loop over images.

A crop with resizing is linear and separable, so each image gets two small matrices, one for rows and one for columns,
and a batch is resampled by two batched products. The weights are those of an antialiased bilinear resize of the cut
box, as torchvision's `resized_crop(antialias=True)` and Pillow compute it; a flip reverses the columns' weights.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskbench.core.rng import CounterRNG
from maskbench.data.splits import Images

ATTEMPTS = 10  # boxes drawn before the central one is taken, as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Boxes:
    """A rectangle on the canvas of each image, in pixels.

    Attributes:
        top: (B,) int64, first row.
        left: (B,) int64, first column.
        height: (B,) int64, number of rows.
        width: (B,) int64, number of columns.
        flip: (B,) bool, whether left and right are mirrored.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


def random_boxes(
    rng: CounterRNG,
    images: Images,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
) -> Boxes:
    """Draw a random box for each image, as torchvision's RandomResizedCrop does: the first of ATTEMPTS that fits, else
    the central box.

    Args:
        rng: One stream an image.
        images: The images (B, C, H, W) to crop.
        size: Rows and columns of the crops that are made of the boxes.
        scale: Smallest and largest share of the original's area, in (0, 1]; uniform.
        ratio: Smallest and largest aspect (width / height) as a multiple of the aspect of `size`; log-uniform.
        flip: Probability of mirroring.
    """
    canvas = images.pixels.shape[2:]
    area, aspect, position = rng.uniform(ATTEMPTS), rng.uniform(ATTEMPTS), rng.uniform(3)
    # In units in which the original is as tall as the canvas, its width is stretch * canvas width.
    stretch = images.stretch[:, None]
    area = (scale[0] + (scale[1] - scale[0]) * area) * canvas[0] * canvas[1] * stretch
    low, high = (math.log(bound * size[1] / size[0]) for bound in ratio)
    aspect = torch.exp(low + (high - low) * aspect)
    height = (area / aspect).sqrt().round()
    width = ((area * aspect).sqrt() / stretch).round()
    fits = (height >= 1) & (height <= canvas[0]) & (width >= 1) & (width <= canvas[1])
    first = fits.byte().argmax(1, keepdim=True)
    central = central_boxes(images, size)
    height = torch.where(fits.any(1), height.gather(1, first)[:, 0].long(), central.height)
    width = torch.where(fits.any(1), width.gather(1, first)[:, 0].long(), central.width)
    top = (position[:, 0] * (canvas[0] - height + 1)).long()
    left = (position[:, 1] * (canvas[1] - width + 1)).long()
    return Boxes(top, left, height, width, position[:, 2] < flip)


def central_boxes(images: Images, size: tuple[int, int]) -> Boxes:
    """The largest central box with the aspect of `size` (rows, columns) in each original, for evaluation."""
    rows, cols = images.pixels.shape[2:]
    aspect = size[1] / size[0]
    height = (cols * images.stretch / aspect).clamp(max=rows)
    width = (height * aspect / images.stretch).round().clamp(1, cols).long()
    height = height.round().clamp(min=1).long()
    return Boxes((rows - height) // 2, (cols - width) // 2, height, width, torch.zeros_like(height, dtype=torch.bool))


def resample(images: Images, boxes: Boxes, size: tuple[int, int], mean: Tensor, std: Tensor) -> Tensor:
    """Crop, resize and normalise images.

    Args:
        images: The images (B, C, H, W).
        boxes: What to cut out of each.
        size: Rows and columns of the result.
        mean: (C,) by which pixels in [0, 1] are normalised.
        std: (C,) likewise.

    Returns:
        (B, C, *size) float32.
    """
    batch, channels, rows, cols = images.pixels.shape
    across = _resize_weights(boxes.left, boxes.width, cols, size[1])
    across = torch.where(boxes.flip[:, None, None], across.flip(1), across)
    down = _resize_weights(boxes.top, boxes.height, rows, size[0])
    pixels = images.pixels.reshape(batch, channels * rows, cols).float()
    pixels = (pixels @ across.transpose(1, 2)).view(batch, channels, rows, size[1])
    pixels = down @ pixels.transpose(1, 2).reshape(batch, rows, channels * size[1])
    pixels = pixels.view(batch, size[0], channels, size[1]).transpose(1, 2)
    shape = (1, channels, 1, 1)
    return torch.addcmul(-(mean / std).view(shape), pixels, (1 / (255 * std)).view(shape)).contiguous()


def object_shares(images: Images, boxes: Boxes, size: tuple[int, int]) -> Tensor:
    """(B, *size) float32 in [0, 1]: how much of each pixel of the crops that `resample` makes is on the object."""
    assert images.objects is not None, "callers check that the data set has object masks"
    masks = replace(images, pixels=images.objects[:, None].to(images.pixels.device, torch.uint8) * 255)
    unit = torch.ones(1, device=images.pixels.device)
    return resample(masks, boxes, size, 0 * unit, unit)[:, 0]


def _resize_weights(start: Tensor, extent: Tensor, source: int, target: int) -> Tensor:
    """(B, target, source): the weights of the source pixels in a box in each target pixel, one side of the image.

    They fall linearly from the target pixel's centre to its neighbours' centres, and are 0 outside the box.
    """
    start, extent = start[:, None, None].float(), extent[:, None, None].float()
    step = extent / target
    centre = start + (torch.arange(target, device=start.device)[:, None] + 0.5) * step
    pixel = torch.arange(source, device=start.device) + 0.5
    weights = (1 - (pixel - centre).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel > start) & (pixel < start + extent))
    return weights / weights.sum(2, keepdim=True)


def source_margin(size: tuple[int, int], source_scale: float) -> tuple[int, int]:
    """(rows, columns) that the wider source crop adds on each side: round(side * (source_scale - 1) / 2)."""
    return round(size[0] * (source_scale - 1) / 2), round(size[1] * (source_scale - 1) / 2)
