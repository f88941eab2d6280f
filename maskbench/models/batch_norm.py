"""Batch norm over the batch of all processes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskbench.runtime import collectives


def standardise(features: Tensor, eps: float = 1e-5) -> Tensor:
    """Bring features (B, D) to mean 0 and variance 1 over the batch of all processes, as batch norm does."""
    if collectives.world_size() == 1:
        return F.batch_norm(features, None, None, training=True, eps=eps)
    mean, variance = _global_moments(features)
    return (features - mean) * (variance + eps).rsqrt()


def _global_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) mean and biased variance over the batch of all processes."""
    mean = collectives.all_reduce_mean(features.mean(0))
    return mean, collectives.all_reduce_mean((features - mean).square().mean(0))


class BatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d over the batch of all processes. nn.SyncBatchNorm does the same, but not on a CPU."""

    def forward(self, features: Tensor) -> Tensor:
        if collectives.world_size() == 1 or not self.training:
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            precise = features.to(torch.promote_types(features.dtype, torch.float32))
            mean, variance = _global_moments(precise)
            self._update_running_moments(mean.detach(), variance.detach(), len(features) * collectives.world_size())
            standardised = (precise - mean) * (variance + self.eps).rsqrt()
            return (standardised * self.weight + self.bias).to(features.dtype)

    def _update_running_moments(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        """Move the running mean and the running (unbiased) variance towards those of a batch of `rows`."""
        assert self.running_mean is not None and self.running_var is not None, "it tracks them"
        assert self.num_batches_tracked is not None and self.momentum is not None, "not a plain average"
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (rows / (rows - 1)), self.momentum)
