"""What a strategy is given beside the images: the grid, random draws, and signals computed only when asked for."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.rng import Draws, keys
from maskbench.runtime import distributed

Scope = Literal["image", "batch"]

SIGNALS = {
    "attention": "(B, N) attention of the teacher's last block from the CLS token to each patch, mean over heads",
    "features": "(B, N, D) the teacher's last tokens",
    "embeddings": "(B, N, D) patch embeddings, with positions, of the encoder in training",
    "patch_loss": "(B, N) loss of each patch under the teacher",
    "parts": "(B, N) part maps of the data set",
    "source": "(B, C, H', W') the wider crop of which the images are the centre",
}


class Context:
    """Everything a strategy may use besides the images (B, C, H, W).

    grid: rows, cols, patch, size. progress: share of training done, in [0, 1]. module: what `build` returned. device:
    of the images. rows (B,) int64: places of these images in the global batch of batch_size. kept: what a strategy's
    call leaves for its own `loss`, by name.
    Signals (see SIGNALS) are attributes too; a strategy names in `needs` those that it reads. They are computed at
    most once a step and their time is billed to the strategy.
    """

    attention: Tensor
    features: Tensor
    embeddings: Tensor
    patch_loss: Tensor
    parts: Tensor
    source: Tensor

    def __init__(
        self,
        grid: Grid,
        index: Tensor,
        *,
        seed: int,
        epoch: int,
        step: int,
        progress: float = 0.0,
        rows: Tensor | None = None,
        batch_size: int | None = None,
        crop: int = 0,
        module: nn.Module | None = None,
        signals: Mapping[str, Tensor | Callable[[], Tensor]] | None = None,
    ) -> None:
        """index: (B,) int64 sample numbers. rows: (B,) places of these rows in the global batch of `batch_size`.
        crop: which of each image's crops these are; a batch's one draw for all is the same for all its crops."""
        self.grid = grid
        self.progress = progress
        self.module = module
        self.device = index.device
        self.rows = torch.arange(len(index), device=index.device) if rows is None else rows
        self.batch_size = batch_size or len(index)
        self._image = Draws(keys(index, seed, "masks", epoch, *[crop] * (crop > 0)))
        self._order = Draws(keys(index.new_zeros(1), seed, "order-of-batch", epoch, step, crop))
        self._batch = Draws(keys(index.new_zeros(1), seed, "masks-of-batch", epoch, step))
        self.kept: dict[str, Tensor] = {}
        self._signals = dict(signals or {})

    def __getattr__(self, name: str) -> Tensor:
        signals: dict[str, Tensor | Callable[[], Tensor]] = self.__dict__.get("_signals", {})
        if name not in signals:
            if name in SIGNALS:
                raise ValueError(f"the signal {name!r} is not given: {SIGNALS[name]}; name it in `needs`")
            raise AttributeError(f"Context has no {name!r}; signals: {', '.join(SIGNALS)}")
        value = signals[name]
        if not isinstance(value, Tensor):
            value = signals[name] = value()
        return value

    def _draws(self, scope: Scope) -> Draws:
        return self._image if scope == "image" else self._batch

    def _spread(self, drawn: Tensor) -> Tensor:
        return drawn.expand(len(self.rows), *drawn.shape[1:])

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, scope: Scope = "image") -> Tensor:
        """(B, *shape) float32 in [low, high); scope "batch": one draw for all rows."""
        return self._spread(self._draws(scope).uniform(*shape) * (high - low) + low)

    def normal(self, *shape: int, scope: Scope = "image") -> Tensor:
        """(B, *shape) float32 standard normal."""
        return self._spread(self._draws(scope).normal(*shape))

    def integers(self, high: int | Tensor, *shape: int, scope: Scope = "image") -> Tensor:
        """(B, *shape) int64 in [0, high); `high` a number or broadcastable."""
        return self._spread(self._draws(scope).integers(high, *shape))

    def permutation(self) -> Tensor:
        """(B,) int64: the place of each row in one random order of the global batch."""
        return self._order.uniform(self.batch_size)[0].argsort().argsort()[self.rows]

    def partner(self) -> Tensor:
        """(B,) int64: another row of this batch, uniformly among the neighbours in groups of at most 32 rows.

        Groups never straddle processes, which hold multiples of 32 rows. A batch with no other row is its own partner.
        """
        size = len(self.rows)
        group = math.gcd(size, 32)
        if group == 1:
            group = size
        row = torch.arange(size, device=self.rows.device)
        inside = row % group
        away = 1 + self.integers(max(group - 1, 1), 1)[:, 0]
        return row - inside + (inside + away) % group

    def gather(self, values: Tensor) -> Tensor:
        """(batch_size, ...) of values (B, ...): all rows of the global batch, with gradients, for losses over pairs."""
        return distributed.gather(values)
