"""Mixup and CutMix of a batch on its device: each image with that at the mirrored position, all in one proportion."""

import math

import numpy as np
from torch import Tensor

Box = tuple[slice, slice]  # rows, columns


def mix_batch(
    images: Tensor, targets: Tensor, generator: np.random.Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mix a batch by mixup or by CutMix, at even odds, as timm does in its batch mode, and MAE's fine-tuning with it.

    The share of an image itself is drawn from Beta(alpha, alpha), where alpha is `mixup` or `cutmix`.

    Args:
        images: (B, C, H, W).
        targets: (B, K), each image's shares of the classes.
        generator: Random numbers.
        mixup: Beta's parameter for mixup; with 0, CutMix is always taken.
        cutmix: Beta's parameter for CutMix; with 0, mixup is always taken. With both 0, nothing is mixed.

    Returns:
        Mixed images and targets, of the same shapes.
    """
    if not (mixup or cutmix):
        return images, targets
    use_cutmix = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    alpha = cutmix if use_cutmix else mixup
    share = generator.beta(alpha, alpha)
    if not use_cutmix:
        return blend_with_partner(images, share), blend_with_partner(targets, share)
    rows, cols = images.shape[2:]
    return paste_from_partner(images, targets, draw_box(generator, (rows, cols), share))


def blend_with_partner(values: Tensor, share: float) -> Tensor:
    """Mixup of values (B, ...): `share` of each and the rest of its partner. Zhang et al., arXiv 1710.09412."""
    return values.lerp(values.flip(0), 1 - share)


def paste_from_partner(images: Tensor, targets: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """CutMix: each image (B, C, H, W) with its partner's pixels in `box`, each target (B, K) with the partner's in
    proportion to the area. Yun et al., arXiv 1905.04899."""
    pasted = images.clone()
    pasted[:, :, *box] = images.flip(0)[:, :, *box]
    area = math.prod(side.stop - side.start for side in box)
    return pasted, blend_with_partner(targets, 1 - area / (images.shape[2] * images.shape[3]))


def draw_box(generator: np.random.Generator, size: tuple[int, int], share: float) -> Box:
    """Draw a box with the aspect of `size` (rows, cols) and 1 - `share` of its area, centred on any pixel and cut off
    at the edges."""
    rows, cols = (_draw_interval(generator, side, int(side * math.sqrt(1 - share))) for side in size)
    return rows, cols


def _draw_interval(generator: np.random.Generator, side: int, length: int) -> slice:
    centre = int(generator.integers(side))
    return slice(max(0, centre - length // 2), min(side, centre + (length + 1) // 2))
