"""Mixup and CutMix of a batch on its device: every image with the one at the mirrored place, all in one proportion."""

import math

import numpy as np
from torch import Tensor

Box = tuple[slice, slice]  # rows, columns


def mixed(
    images: Tensor, targets: Tensor, generator: np.random.Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and their shares of classes (B, K) mixed in one of both ways, at even odds.

    As timm does by batch, and with it MAE's fine-tuning. The first one's share is drawn from Beta(alpha, alpha),
    alpha being `mixup` or `cutmix`; where one is 0 the other is always taken, where both are nothing is mixed.
    """
    if not (mixup or cutmix):
        return images, targets
    cut = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = generator.beta(alpha, alpha)
    if not cut:
        return blended(images, share), blended(targets, share)
    rows, cols = images.shape[2:]
    return pasted(images, targets, random_box(generator, (rows, cols), share))


def blended(values: Tensor, share: float) -> Tensor:
    """(B, ...): `share` of each and the rest of its partner. Zhang et al., arXiv 1710.09412."""
    return values.lerp(values.flip(0), 1 - share)


def pasted(images: Tensor, targets: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Each image with the partner's pixels in `box`, each target with the partner's in proportion to the area. Yun et
    al., arXiv 1905.04899."""
    made = images.clone()
    made[:, :, *box] = images.flip(0)[:, :, *box]
    area = math.prod(side.stop - side.start for side in box)
    return made, blended(targets, 1 - area / (images.shape[2] * images.shape[3]))


def random_box(generator: np.random.Generator, size: tuple[int, int], share: float) -> Box:
    """A box with the aspect of `size` (rows, cols) and 1 - `share` of its area, centred on any pixel and cut off at the
    edges."""
    rows, cols = (_side(generator, side, int(side * math.sqrt(1 - share))) for side in size)
    return rows, cols


def _side(generator: np.random.Generator, side: int, length: int) -> slice:
    centre = int(generator.integers(side))
    return slice(max(0, centre - length // 2), min(side, centre + (length + 1) // 2))
