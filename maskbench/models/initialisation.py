"""How the encoder and the decoder start. All of it moves the probes of a short run by points.

Linear layers and the patch embedding, seen as one linear layer, are Xavier-uniform and biases are 0; class and
register tokens are normal(0, 0.02), as in MAE (arXiv 2111.06377). Positions start as fixed 2-D sine-cosine tables
(Chen, Xie, He, arXiv 2104.02057) and stay trainable, because timm keeps them as parameters.
"""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.errors import UsageError


def initialise_vit(vit: VisionTransformer) -> None:
    """Initialise a timm model in place, from torch's current generator."""
    vit.apply(initialise_linear)
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
    for token in (vit.cls_token, vit.reg_token):
        if token is not None:
            nn.init.normal_(token, std=0.02)
    skip = 0 if vit.no_embed_class else vit.num_prefix_tokens
    rows, cols = vit.patch_embed.grid_size
    with torch.no_grad():
        vit.pos_embed.zero_()
        vit.pos_embed[:, skip:] = sine_cosine_positions(Grid(rows, cols, vit.patch_embed.patch_size[0]), vit.embed_dim)


def initialise_linear(module: nn.Module) -> None:
    """Initialise `module` if it is a linear layer; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sine_cosine_positions(grid: Grid, width: int) -> Tensor:
    """(1, N, width) fixed 2-D positions: a quarter each of sin and cos of the row and of the column."""
    if width % 4:
        raise UsageError(f"width {width} must be a multiple of 4 for sine-cosine positions")
    frequency = 10_000.0 ** -(torch.arange(width // 4).double() / (width // 4))
    rows, cols = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.cols), indexing="ij")
    angles = [axis.flatten().double()[:, None] * frequency for axis in (rows, cols)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
    return table.float()[None]
