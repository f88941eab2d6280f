"""Batch norm over the batch of all processes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskbench.runtime import distributed


def standardised(features: Tensor, eps: float = 1e-5) -> Tensor:
    """(B, D) features at mean 0 and variance 1 over the batch of all processes, as a batch norm without parameters."""
    if distributed.world() == 1:
        return F.batch_norm(features, None, None, training=True, eps=eps)
    average, variance = _moments(features)
    return (features - average) * (variance + eps).rsqrt()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) mean and biased variance over the batch of all processes."""
    average = distributed.mean(features.mean(0))
    return average, distributed.mean((features - average).square().mean(0))


class BatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d over the batch of all processes; nn.SyncBatchNorm, which is that, knows no CPU."""

    def forward(self, features: Tensor) -> Tensor:
        if distributed.world() == 1 or not self.training:
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            wide = features.to(torch.promote_types(features.dtype, torch.float32))
            average, variance = _moments(wide)
            self._follow(average.detach(), variance.detach(), len(features) * distributed.world())
            normal = (wide - average) * (variance + self.eps).rsqrt()
            return (normal * self.weight + self.bias).to(features.dtype)

    def _follow(self, average: Tensor, variance: Tensor, rows: int) -> None:
        """The running moments, of which the variance is the unbiased one."""
        assert self.running_mean is not None and self.running_var is not None, "it tracks them"
        assert self.num_batches_tracked is not None and self.momentum is not None, "not a plain average"
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(average, self.momentum)
        self.running_var.lerp_(variance * (rows / (rows - 1)), self.momentum)
