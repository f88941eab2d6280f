"""An exponential moving average of what is trained, kept only for strategies that ask for its signals."""

import copy

import torch
from torch import Tensor, nn

from maskbench.draws import Draws
from maskbench.grid import Grid, hide
from maskbench.objective import Head
from maskbench.view import View, complete
from maskbench.vit import Encoder

SIGNALS = frozenset({"attention", "features", "patch_loss"})


class Teacher(nn.Module):
    """A copy that follows the student: parameter = momentum * parameter + (1 - momentum) * the student's.

    Of the encoder alone, or of the whole head where the loss of patches is asked for.
    """

    def __init__(self, head: Head, momentum: float, *, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        self.copy = copy.deepcopy(self.followed(head)).eval().requires_grad_(False)
        self.momentum = momentum

    def followed(self, head: Head) -> Head | Encoder:
        """The part of the student that is copied."""
        return head if self.whole else head.encoder

    @property
    def encoder(self) -> Encoder:
        """The copy's encoder."""
        return self.copy.encoder if isinstance(self.copy, Head) else self.copy

    @torch.no_grad()
    def update(self, head: Head) -> None:
        """One step towards `head`."""
        torch._foreach_lerp_(list(self.copy.parameters()), list(self.followed(head).parameters()), 1 - self.momentum)

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """(B, N) float32 attention of the class token in the last block, on unmasked images."""
        return self.encoder.cls_attention(images)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, N, D) last tokens of unmasked images."""
        patches: Tensor = self.encoder(images).patches
        return patches

    @torch.no_grad()
    def patch_loss(self, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """(B, N) loss of each patch, measured while it is hidden: one random half of the patches, then the other."""
        grid: Grid = self.encoder.grid
        half = grid.size // 2
        first = hide(draws.uniform(grid.size), half)
        return torch.where(
            first,
            self._hidden_loss(images, labels, first, grid.size - half),
            self._hidden_loss(images, labels, ~first, half),
        )

    def _hidden_loss(self, images: Tensor, labels: Tensor, hidden: Tensor, length: int) -> Tensor:
        view = complete(View(images, hidden, length=length), images, self.encoder.grid)
        loss: Tensor | None = self.copy(view, labels).patch_loss
        if loss is None:
            raise ValueError("needs the loss of each patch, which this objective does not measure; choose mae")
        return loss
