"""Signs that a representation has collapsed: all images look alike to it."""

from collections.abc import Mapping

import torch
from torch import Tensor

LOWEST_RANK = 2.0  # effective dimensions
LOWEST_SPREAD = 0.1  # of the teacher's mean answer, as a share of the largest entropy
HIGHEST_ENTROPY = 0.995  # of the teacher's single answers, likewise
MIN_STEPS = 100  # features of an encoder that has hardly been trained vary little in any case
MIN_IMAGES = 10  # n images vary along n - 1 dimensions at most
ALIKE = (
    f"the images themselves vary along fewer than {LOWEST_RANK:g} dimensions, and so do all features; check the data"
)


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred `features` (B, D): from 0, where all rows are
    equal, up to min(B - 1, D). Roy and Vetterli, EUSIPCO 2007; on self-supervised features, RankMe (arXiv 2210.02885),
    which does not centre."""
    if not features.isfinite().all():
        return 0.0
    exact = features.double()
    values = torch.linalg.svdvals(exact - exact.mean(0))
    values = values[values > 1e-6 * exact.norm()]  # below that lies the rounding of float32
    return float(torch.special.entr(values / values.sum()).sum().exp()) if len(values) else 0.0


def signs_of_collapse(row: Mapping[str, float], images: int = MIN_IMAGES) -> list[str]:
    """What in a row of the curve says that training has collapsed, one line each.

    Args:
        row: A row of the curve. Before MIN_STEPS steps nothing can be said.
        images: Number of images from which the rank of the features is known; too few say nothing.
    """
    if row.get("step", MIN_STEPS) < MIN_STEPS:
        return []
    signs = []
    for name, value in row.items():
        if name.startswith("online/rank/") and value < LOWEST_RANK and images >= MIN_IMAGES:
            signs.append(f"features ({name.rpartition('/')[2]}) vary along fewer than {LOWEST_RANK:g} dimensions")
    if row.get("teacher/entropy-of-mean", 1.0) < LOWEST_SPREAD:
        signs.append("the teacher answers nearly the same to all images")
    if row.get("teacher/entropy", 0.0) > HIGHEST_ENTROPY:
        signs.append("the teacher's answers are nearly uniform")
    return [f"collapse: {sign}; lower the learning rate, or give the objective other temperatures" for sign in signs]


def images_are_alike(pixels: Tensor) -> bool:
    """Whether the images (B, C, H, W) hardly differ, so that the features of no encoder can."""
    return effective_rank(pixels.flatten(1).float()) < LOWEST_RANK
