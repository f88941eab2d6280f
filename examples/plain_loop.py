"""A strategy in a training loop of your own: SimMIM in plain PyTorch, without the harness of maskbench.

    python examples/plain_loop.py [STRATEGY]

STRATEGY is a name from `maskbench list strategies` that needs no signal from a teacher, e.g. random, block or gmml.
Prints the loss every ten steps.
"""

import sys

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import maskbench

PATCH, SIDE, BATCH = 4, 32, 64


class MaskedModel(nn.Module):
    """A small ViT that sees a mask token in place of every hidden patch, and predicts the pixels of all patches."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model(
            "vit_tiny_patch16_224", img_size=SIDE, patch_size=PATCH, num_classes=0, embed_dim=64, depth=3, num_heads=2
        )
        self.mask_token = nn.Parameter(torch.zeros(64))
        self.head = nn.Linear(64, 3 * PATCH**2)

    def forward(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        """images: (B, 3, H, W). hidden: (B, N) bool, or None if every patch is seen. Returns (B, 3, H, W)."""
        tokens = self.vit.patch_embed(images)
        if hidden is not None:
            tokens = torch.where(hidden[..., None], self.mask_token, tokens)
        tokens = self.vit.norm(self.vit.blocks(self.vit._pos_embed(tokens)))[:, 1:]
        return F.fold(self.head(tokens).transpose(1, 2), SIDE, PATCH, stride=PATCH)


def draw_images(step: int) -> Tensor:
    """(B, 3, H, W) smooth random colours, about mean 0 and deviation 1: put your own batches here."""
    coarse = torch.randn(BATCH, 3, 5, 5, generator=torch.Generator().manual_seed(step))
    return F.interpolate(coarse, SIDE, mode="bicubic")


def main(strategy: str) -> None:
    torch.manual_seed(0)
    model = MaskedModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(31):
        images = draw_images(step)
        view = maskbench.degrade(strategy, images, patch_size=PATCH, seed=0, epoch=step)
        prediction = model(view.images, view.hidden)
        loss = maskbench.recovery_loss(prediction, view, patch_size=PATCH, error="l1")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step:2}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "random")
