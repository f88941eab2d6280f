"""Hiding what is hard to recover, from easy to hard (HPM)."""

from collections.abc import Callable
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from maskbench.strategy import (
    Context,
    Grid,
    Ratio,
    Share,
    StepOutput,
    Strategy,
    Tensor,
    View,
    dataclass,
    hide,
    register,
)


@dataclass(frozen=True, kw_only=True)
class HardestFirst(Strategy):
    """What the two have in common.

    Wang et al., "Hard Patches Mining for Masked Image Modeling", CVPR 2023, arXiv 2304.05919: of the count, the share
    `hardest` * progress, so more of them as training goes on, is the hardest; the rest is drawn at random. Deviation:
    the share grows with every step; the reference's is constant within an epoch, at the value that is reached here when
    the epoch ends. The difference is at most count * `hardest` / epochs patches, 0.37 of 147 in 200 epochs, before both
    are rounded down.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        hardest: Share of these, in [0, 1], that are the hardest at the end of the training.
    """

    ratio: Ratio = 0.75
    hardest: Share = 0.5

    def hide_hardest(self, images: Tensor, context: Context, hardness: Callable[[], Tensor]) -> View:
        """The view that hides the hardest patches and random others. hardness: (B, N), called only if it is needed."""
        grid = context.grid
        count = grid.count(self.ratio)
        scores = context.uniform(grid.size)
        chosen = int(count * self.hardest * context.progress + 1e-9)
        if chosen:
            scores = scores + hide(hardness(), chosen)
        return View(images, hide(scores, count), length=grid.size - count)


@register("hard-patches")
@dataclass(frozen=True, kw_only=True)
class HardPatches(HardestFirst):
    """Hides the patches with the highest loss under the teacher.

    Deviation: the loss is measured with the teacher, each patch once while hidden among random ones, where the
    reference predicts it (`hard-patches-predicted`).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"patch_loss"})

    def __call__(self, images: Tensor, context: Context) -> View:
        return self.hide_hardest(images, context, lambda: context.patch_loss)


@register("hard-patches-predicted")
@dataclass(frozen=True, kw_only=True)
class HardPatchesPredicted(HardestFirst):
    """Hides the patches whose loss a head on the teacher's tokens predicts to be the highest.

    The head learns to rank: of two patches recovered in the same image, the binary cross-entropy of which one has the
    higher loss. Deviation: a small head on the teacher's tokens of the whole image, where the reference's is as large
    as the decoder and has a moving average of its own.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    learns_from_patch_loss: ClassVar[bool] = True

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))

    def __call__(self, images: Tensor, context: Context) -> View:
        return self.hide_hardest(images, context, lambda: self.predict_loss(context).detach())

    def predict_loss(self, context: Context) -> Tensor:
        """(B, N), higher is harder, in no unit."""
        assert context.module is not None, "made by build"
        predicted: Tensor = context.module(context.features.float())[..., 0].float()
        return predicted

    def loss(self, view: View, output: StepOutput, context: Context) -> Tensor | None:
        if output.patch_loss is None or view.recovered is None:
            raise ValueError(f"{self.name} needs the loss of each patch; choose --objective mae")
        predicted = self.predict_loss(context)
        pairs = (view.recovered[:, :, None] & view.recovered[:, None]).triu(1)
        margin = predicted[:, :, None] - predicted[:, None]
        harder = (output.patch_loss[:, :, None] > output.patch_loss[:, None]).float()
        errors = F.binary_cross_entropy_with_logits(margin, harder, reduction="none")
        return (errors * pairs).sum() / pairs.sum().clamp_min(1)
