"""What a strategy may use besides the images: the grid, random draws, and signals computed on first use."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.errors import ContractError
from maskbench.runtime import collectives

Scope = Literal["image", "batch"]

SIGNALS = {
    "attention": "(B, N) attention of the teacher's last block from the CLS token to each patch, mean over heads",
    "features": "(B, N, D) the teacher's last tokens",
    "embeddings": "(B, N, D) patch embeddings, with positions, of the encoder in training",
    "patch_loss": "(B, N) loss of each patch under the teacher",
    "parts": "(B, N) part maps of the data set",
    "source": "(B, C, H', W') the wider crop of which the images are the centre",
}


def _remedy(signal: str) -> str:
    return "set `source_scale` above 1" if signal == "source" else "add it to `needs`"


class Context:
    """Everything that a strategy may use besides the images (B, C, H, W).

    A signal is computed at most once a step, when the strategy reads it, and its time counts as the strategy's. Only
    the signals that the strategy names in `needs` can be read; another one is a ValueError. The teacher is the
    exponential moving average of the encoder in training.

    All draws are functions of (seed, epoch, sample): a row never depends on the other rows of its batch. Successive
    calls give new numbers. With `scope="batch"` there is one draw for all rows, a function of (seed, epoch, step).

    Attributes:
        grid: The patches of the images: `rows`, `cols`, `patch` (pixels), `size` (tokens N).
        progress: Share of the training done, in [0, 1].
        module: What `Strategy.build` returned, or None.
        device: Of the images; every tensor that the strategy makes belongs there.
        rows: (B,) int64 places of these images in the global batch, over all processes and micro-batches.
        batch_size: Images in the global batch.
        kept: Tensors by name that a strategy's call leaves for its own `loss`. Empty at first.
        attention: Signal. (B, N) float, how much the CLS token of the teacher's last block attends to each patch, mean
            over heads.
        features: Signal. (B, N, D) float, the teacher's last patch tokens; D is the encoder's width.
        embeddings: Signal. (B, N, D) float, patch embeddings, with positions, of the encoder in training.
        patch_loss: Signal. (B, N) float, loss of each patch under the teacher.
        parts: Signal. (B, N), part maps of the data set.
        source: Signal. (B, C, H', W') the wider crop of which the images are the centre, if the strategy's
            `source_scale` is above 1.
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
        """What the training loop, `degrade` and tests pass in.

        Args:
            grid: The patches of the images.
            index: (B,) int64 numbers of the samples in the data set, on the images' device.
            seed: The run's seed.
            epoch: Number of the epoch, from 0.
            step: Number of the step over the whole training, from 0.
            progress: Share of the training done, in [0, 1].
            rows: (B,) int64 places of these rows in the global batch. None: all of it, in order.
            batch_size: Images in the global batch. None: as many as `index` has.
            crop: Which of each image's crops these are, from 0. A draw for the whole batch is the same for all crops.
            module: What `Strategy.build` returned.
            signals: Tensors by name, or functions that compute them when they are first read.
        """
        self.grid = grid
        self.progress = progress
        self.module = module
        self.device = index.device
        self.rows = torch.arange(len(index), device=index.device) if rows is None else rows
        self.batch_size = batch_size or len(index)
        self._image_rng = CounterRNG(sample_keys(index, seed, "masks", epoch, *[crop] * (crop > 0)))
        self._order_rng = CounterRNG(sample_keys(index.new_zeros(1), seed, "order-of-batch", epoch, step, crop))
        self._batch_rng = CounterRNG(sample_keys(index.new_zeros(1), seed, "masks-of-batch", epoch, step))
        self.kept: dict[str, Tensor] = {}
        self._signals = dict(signals or {})

    def __getattr__(self, name: str) -> Tensor:
        signals: dict[str, Tensor | Callable[[], Tensor]] = self.__dict__.get("_signals", {})
        if name not in signals:
            if name in SIGNALS:
                raise ContractError(f"the signal {name!r} is missing: {SIGNALS[name]}; {_remedy(name)}")
            raise AttributeError(f"Context has no {name!r}; signals: {', '.join(SIGNALS)}")
        value = signals[name]
        if not isinstance(value, Tensor):
            value = signals[name] = value()
        return value

    def _rng(self, scope: Scope) -> CounterRNG:
        return self._image_rng if scope == "image" else self._batch_rng

    def _expand_to_rows(self, drawn: Tensor) -> Tensor:
        return drawn.expand(len(self.rows), *drawn.shape[1:])

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, scope: Scope = "image") -> Tensor:
        """Draw uniform numbers.

        Args:
            shape: Numbers for each image.
            low: Smallest value, included.
            high: Largest value, excluded.
            scope: "image": each row has its own draw. "batch": one draw for all rows.

        Returns:
            (B, *shape) float32.
        """
        return self._expand_to_rows(self._rng(scope).uniform(*shape) * (high - low) + low)

    def normal(self, *shape: int, scope: Scope = "image") -> Tensor:
        """Draw standard normal numbers, (B, *shape) float32. Arguments as for `uniform`."""
        return self._expand_to_rows(self._rng(scope).normal(*shape))

    def integers(self, high: int | Tensor, *shape: int, scope: Scope = "image") -> Tensor:
        """Draw whole numbers in [0, high).

        Args:
            high: Below 2**31: a number, or int64 broadcastable to (B, *shape).
            shape: Numbers for each image.
            scope: "image": each row has its own draw. "batch": one draw for all rows.

        Returns:
            (B, *shape) int64.
        """
        return self._expand_to_rows(self._rng(scope).integers(high, *shape))

    def permutation(self) -> Tensor:
        """The place of each row in one random order of the global batch: (B,) int64 in [0, batch_size)."""
        return self._order_rng.uniform(self.batch_size)[0].argsort().argsort()[self.rows]

    def partner(self) -> Tensor:
        """Another row of this batch for each row, e.g. to mix two images: (B,) int64 in [0, B).

        Rows form groups of at most 32 neighbours, and the partner is drawn uniformly among the others of the group.
        Groups never straddle processes or micro-batches, which hold multiples of 32 rows. In a batch of one image, the
        image is its own partner.
        """
        size = len(self.rows)
        group = math.gcd(size, 32)
        if group == 1:
            group = size
        row = torch.arange(size, device=self.rows.device)
        place = row % group
        distance = 1 + self.integers(max(group - 1, 1), 1)[:, 0]
        return row - place + (place + distance) % group

    def gather(self, values: Tensor) -> Tensor:
        """All rows of the global batch, for losses over pairs of images. Gradients pass through.

        Args:
            values: (B, ...) of the rows that this process has.

        Returns:
            (batch_size, ...).
        """
        return collectives.all_gather(values)
