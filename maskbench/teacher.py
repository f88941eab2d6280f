"""An exponential moving average of the encoder, kept only for strategies that ask for its attention or features."""

import copy

import torch
from torch import Tensor, nn

from maskbench.vit import Encoder


class Teacher(nn.Module):
    """A copy of the encoder that follows it: parameter = momentum * parameter + (1 - momentum) * the encoder's."""

    def __init__(self, encoder: Encoder, momentum: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def update(self, encoder: Encoder) -> None:
        """One step towards `encoder`."""
        torch._foreach_lerp_(list(self.encoder.parameters()), list(encoder.parameters()), 1 - self.momentum)

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """(B, N) float32 attention of the class token in the last block, on unmasked images."""
        return self.encoder.cls_attention(images)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, N, D) last tokens of unmasked images."""
        patches: Tensor = self.encoder(images).patches
        return patches
