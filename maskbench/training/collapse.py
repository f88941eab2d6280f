"""Signs that a representation has collapsed: all images look alike to it."""

from collections.abc import Mapping

import torch
from torch import Tensor

LOWEST_RANK = 2.0  # effective dimensions
LOWEST_SPREAD = 0.1  # of the teacher's mean answer, as a share of the largest entropy
HIGHEST_ENTROPY = 0.995  # of the teacher's single answers, likewise


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


def signs_of_collapse(row: Mapping[str, float]) -> list[str]:
    """What in a row of the curve says that training has collapsed, one line each."""
    signs = []
    for name, value in row.items():
        if name.startswith("online/rank/") and value < LOWEST_RANK:
            signs.append(f"features ({name.rpartition('/')[2]}) vary along fewer than {LOWEST_RANK:g} dimensions")
    if row.get("teacher/entropy-of-mean", 1.0) < LOWEST_SPREAD:
        signs.append("the teacher answers nearly the same to all images")
    if row.get("teacher/entropy", 0.0) > HIGHEST_ENTROPY:
        signs.append("the teacher's answers are nearly uniform")
    return [f"collapse: {sign}; lower the learning rate, or give the objective other temperatures" for sign in signs]
