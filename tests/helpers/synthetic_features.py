"""Features drawn around a centre for each class, for probes that read features."""

import torch
from torch import Tensor

from maskbench.probe import Features


def clouds(count: int, dim: int = 24, classes: int = 6, distance: float = 1.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes with correlated dimensions of very different scales."""
    fixed = torch.Generator().manual_seed(99)
    centres = distance * torch.randn(classes, dim, generator=fixed)
    mixing = torch.randn(dim, dim, generator=fixed) * torch.logspace(-2, 1, dim)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return (centres[labels] + torch.randn(count, dim, generator=generator)) @ mixing, labels


def features(train: int = 2000, **given: float) -> Features:
    """`clouds` as the features of a train, validation and test split."""
    x, y = clouds(train, seed=1, **given)  # type: ignore[arg-type]
    test, test_labels = clouds(3000, seed=2, **given)  # type: ignore[arg-type]
    held = train // 10
    return Features(x, y, x[held:], y[held:], x[:held], y[:held], test, test_labels, classes=6)
