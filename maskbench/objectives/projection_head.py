"""The projection head of DINO and iBOT."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """An MLP with GELU, then cosines with learnt prototypes: tokens (..., D) to (..., prototypes).

    Linear layers to `hidden`, at last to `bottleneck`, at unit length; the prototypes have unit length, too. Linear
    layers start truncated normal (0.02), biases at 0, as published.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, layers: int, prototypes: int) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), bottleneck]
        linears = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
        self.mlp = nn.Sequential(*[module for linear in linears[:-1] for module in (linear, nn.GELU())], linears[-1])
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for linear in linears:
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, tokens: Tensor, *, frozen: bool = False) -> Tensor:
        """The cosines. frozen: whether the prototypes get no gradient."""
        prototypes = F.normalize(self.prototypes, dim=-1)
        return F.normalize(self.mlp(tokens), dim=-1) @ (prototypes.detach() if frozen else prototypes).T
