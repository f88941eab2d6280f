"""An exponential moving average of what is trained: for distillation, and for strategies that ask for its signals."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.core.examples import Examples
from maskbench.core.grid import Grid, hide
from maskbench.core.rng import Draws
from maskbench.core.view import View, complete
from maskbench.models.encoder import Encoded, Encoder

SIGNALS = frozenset({"attention", "features", "patch_loss"})


class Teacher(nn.Module):
    """A copy that follows what is trained: parameter = momentum * parameter + (1 - momentum) * the followed one.

    Of an encoder, or of a module whose `encoder` it is; of a whole head where the loss of patches is asked for.
    """

    def __init__(self, followed: nn.Module, momentum: float) -> None:
        super().__init__()
        self.copy = copy.deepcopy(followed).eval().requires_grad_(False)
        self.momentum = momentum
        self._seen: list[tuple[Tensor, Encoded, Tensor]] = []

    def train(self, mode: bool = True) -> "Teacher":
        """Nothing: whatever drops or counts in training must not do so in the copy."""
        return self

    def _load_from_state_dict(self, *given: Any) -> None:  # also where it is loaded as a part of something
        self._seen.clear()
        super()._load_from_state_dict(*given)

    @property
    def encoder(self) -> Encoder:
        """The copy's encoder."""
        encoder = self.copy if isinstance(self.copy, Encoder) else self.copy.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    @torch.no_grad()
    def update(self, followed: nn.Module) -> None:
        """One step towards `followed`."""
        torch._foreach_lerp_(list(self.copy.parameters()), list(followed.parameters()), 1 - self.momentum)
        self._seen.clear()

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Encoded, Tensor]:
        """All tokens of these images and the attention (B, N), computed once until the next update."""
        for known, encoded, attention in self._seen:
            if known is images:
                return encoded, attention
        encoded, attention = self.encoder.attend(images)
        self._seen.append((images, encoded, attention))
        return encoded, attention

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
        loss: Tensor = self.copy(Examples((view,), (images,), labels)).patch_loss
        return loss
