"""The projection head of DINO and iBOT."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """An MLP with GELU, then cosines with learnt prototypes: tokens (..., D) to (..., prototypes).

    Linear layers to `hidden`, at last to `bottleneck`, at unit length; the prototypes have unit length, too, or a
    length that is trained. Linear layers start truncated normal (0.02), biases at 0, lengths at 1, as published.

    Attributes:
        mlp: The linear layers.
        prototypes: (prototypes, bottleneck) directions, of any length.
        lengths: (prototypes, 1) their lengths if those are trained, else None. They have two dimensions, as published,
            so that they decay like the prototypes.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        bottleneck: int,
        layers: int,
        prototypes: int,
        norm_last_layer: bool = True,
        mlp: nn.Sequential | None = None,
    ) -> None:
        """mlp: that of another head, to share it. norm_last_layer: whether prototypes keep unit length."""
        super().__init__()
        self.mlp = build_mlp([width, *[hidden] * (layers - 1), bottleneck]) if mlp is None else mlp
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.normal_(self.prototypes)
        self.lengths: nn.Parameter | None = None if norm_last_layer else nn.Parameter(torch.ones(prototypes, 1))

    def forward(self, tokens: Tensor, *, frozen: bool = False) -> Tensor:
        """The cosines, times the lengths if those are trained. frozen: whether the prototypes get no gradient."""
        prototypes = F.normalize(self.prototypes, dim=-1)
        if self.lengths is not None:
            prototypes = prototypes * self.lengths
        return F.normalize(self.mlp(tokens), dim=-1) @ (prototypes.detach() if frozen else prototypes).T


def build_mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers from one size to the next, with GELU between them."""
    linears = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    for linear in linears:
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*[module for linear in linears[:-1] for module in (linear, nn.GELU())], linears[-1])
