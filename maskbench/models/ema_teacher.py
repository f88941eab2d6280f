"""The EMA teacher: a moving average of what is trained, for distillation and for strategies that read its signals."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.core.examples import Examples
from maskbench.core.grid import Grid, hide
from maskbench.core.rng import CounterRNG
from maskbench.core.view import View, complete
from maskbench.models.encoder import Encoder
from maskbench.models.tokens import EncodedTokens

SIGNALS = frozenset({"attention", "features", "patch_loss"})  # those of a strategy's context that a teacher gives


class EMATeacher(nn.Module):
    """A copy of a trained model that follows it: weight = momentum * weight + (1 - momentum) * the model's weight.

    Attributes:
        copy: The copy, in eval mode and without gradients: of an encoder, or of a module that has one as `encoder`. For
            `patch_loss` it must be a whole head. The name is a key of checkpoints.
        momentum: In [0, 1].
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        super().__init__()
        self.copy = copy.deepcopy(model).eval().requires_grad_(False)
        self.momentum = momentum
        self._cache: list[tuple[Tensor, EncodedTokens, Tensor]] = []  # images, tokens, attention

    def train(self, mode: bool = True) -> "EMATeacher":
        """Do nothing: whatever drops or counts in training must not do so in the copy."""
        return self

    def _load_from_state_dict(self, *args: Any) -> None:  # also called where the teacher is a part of what is loaded
        self._cache.clear()
        super()._load_from_state_dict(*args)

    @property
    def encoder(self) -> Encoder:
        """The copy's encoder."""
        encoder = self.copy if isinstance(self.copy, Encoder) else self.copy.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the copy one step towards `model`."""
        torch._foreach_lerp_(list(self.copy.parameters()), list(model.parameters()), 1 - self.momentum)
        self._cache.clear()

    @torch.no_grad()
    def encode_with_attention(self, images: Tensor) -> tuple[EncodedTokens, Tensor]:
        """All tokens of these images and the class token's attention (B, N), computed once until the next update."""
        for known, encoded, attention in self._cache:
            if known is images:
                return encoded, attention
        encoded, attention = self.encoder.encode_with_attention(images)
        self._cache.append((images, encoded, attention))
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
    def patch_loss(self, images: Tensor, labels: Tensor, rng: CounterRNG) -> Tensor:
        """(B, N) loss of each patch, measured while it is hidden: one random half of the patches, then the other."""
        grid: Grid = self.encoder.grid
        half = grid.size // 2
        first = hide(rng.uniform(grid.size), half)
        return torch.where(
            first,
            self._loss_while_hidden(images, labels, first, grid.size - half),
            self._loss_while_hidden(images, labels, ~first, half),
        )

    def _loss_while_hidden(self, images: Tensor, labels: Tensor, hidden: Tensor, length: int) -> Tensor:
        """(B, N) the copy's loss of each patch on a view that hides `hidden` and leaves `length` patches."""
        view = complete(View(images, hidden, length=length), images, self.encoder.grid)
        loss: Tensor = self.copy(Examples((view,), (images,), labels)).patch_loss
        return loss
