"""What changes from step to step by itself, and what of a model the weight decay is for."""

import math
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from maskbench.config.settings import RunConfig


def steps_per_epoch(config: RunConfig, images: int) -> int:
    """Whole batches in an epoch; the remainder of the epoch's order is left out."""
    return images // config.train.batch_size


def learning_rate(config: RunConfig, step: int, per_epoch: int) -> float:
    """Linear warm-up from 0, then a half cosine down to `min_lr` at the last step."""
    train = config.train
    return warmup_cosine(
        config.lr, train.min_lr, step, round(train.warmup_epochs * per_epoch), train.epochs * per_epoch
    )


def warmup_cosine(peak: float, end: float, step: int, warmup: int, total: int) -> float:
    """Linear from 0 to `peak` in `warmup` steps, then a half cosine down to `end` at the last of `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return half_cosine(peak, end, (step - warmup) / max(1, total - 1 - warmup))


def half_cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` as `share` goes from 0 to 1, level at both ends."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def weight_decay_groups(module: nn.Module, decay: float, without: Collection[str] = ()) -> list[dict[str, Any]]:
    """AdamW's groups: what `decays`, and what does not. without: names of parameters that another optimizer has."""
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name not in without:
            (decayed if decays(name, parameter) else kept).append(parameter)
    return [{"params": decayed, "weight_decay": decay}, {"params": kept, "weight_decay": 0.0}]


def decays(name: str, parameter: Tensor) -> bool:
    """Matrices do; vectors (norms, biases), class, register and mask tokens and positions do not, as in MAE and
    timm."""
    exempt = ("cls_token", "reg_token", "mask_token", "pos_embed")
    return parameter.ndim >= 2 and not name.endswith(exempt)
