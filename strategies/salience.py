"""Hiding by salience among the patch embeddings (SBAM)."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from maskbench.strategy import Context, Ratio, Share, Strategy, Tensor, View, dataclass, hide, register


@register("salience")
@dataclass(frozen=True, kw_only=True)
class Salience(Strategy):
    """Hides the patches that the others attend to most, by the inner products of the model's own patch embeddings.

    Choi, Park, Yi, Cha, Min, "Salience-Based Adaptive Masking: Revisiting Token Dynamics for Enhanced Pre-training",
    ECCV 2024, arXiv 2404.08327. Salience is the column sum of the row-wise softmax of the embeddings' Gram matrix,
    positions included, scaled to [0, 1] in each image; uniform noise up to `noise` is added. `adaptive` > 0 adds the
    paper's adaptive ratio: ratio - adaptive + 2 * adaptive * (share of patches with salience above `delta`).
    Deviations: the reference averages that share over the batch, here it is each image's own, as the paper says; its
    values of adaptive and delta are not published, so it is off by default.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        noise: Upper end of the uniform noise added to the salience, 0 or more.
        adaptive: How far an image's own ratio may differ from `ratio`, in [0, 0.5); 0: not at all.
        delta: Salience, in [0, 1], above which a patch counts as salient for the adaptive ratio.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    ratio: Ratio = 0.75
    noise: Annotated[float, Field(ge=0)] = 0.5
    adaptive: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    delta: Share = 0.5

    def matched(self, ratio: float) -> "Salience":
        return self.replace(ratio=ratio, adaptive=0.0)

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        embeddings = context.embeddings.float()
        attention = (embeddings @ embeddings.transpose(1, 2)).softmax(-1)
        received = attention.sum(1, dtype=torch.float64)  # in float32, rounding would rank equal patches
        low, high = received.amin(1, keepdim=True), received.amax(1, keepdim=True)
        salience = (received - low) / (high - low).clamp_min(1e-12)
        scores = salience + self.noise * context.uniform(grid.size)
        if self.adaptive == 0:
            count = grid.count(self.ratio)
            return View(images, hide(scores, count), length=grid.size - count)
        share = (salience > self.delta).double().mean(1, keepdim=True)
        ratio = (self.ratio + self.adaptive * (2 * share - 1)).clamp(0, 1)
        return View(images, hide(scores, grid.count(ratio)))
