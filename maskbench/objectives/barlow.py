"""Barlow Twins: two crops of an image get the same features, and features that do not repeat each other."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import precise
from maskbench.core.view import View
from maskbench.models.batch_norm import BatchNorm1d, standardised
from maskbench.models.encoder import Encoded, Encoder
from maskbench.objective import Examples, Head, LearnsFrom, Outcome, Recipe, register
from maskbench.objectives.two_crops import TwoCrops
from maskbench.runtime.distributed import mean

Width = Annotated[int, Field(ge=2)]


@register("barlow")
@dataclass(frozen=True, kw_only=True)
class Barlow(TwoCrops):
    """The cross-correlation of two crops' projected features, over the batch, is drawn towards the identity.

    Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
    arXiv 2103.03230: features are standardised over the global batch (biased variance, epsilon 1e-5); loss = sum of
    (c_ii - 1)^2 + `redundancy` * sum of c_ij^2 off the diagonal, times `scale`. The projector: `layers` - 1 times
    linear, batch norm, ReLU, then linear, none with a bias. Needs no strategy; with one, tokens that it hides are
    dropped. Deviations: the projector reads the class token and the mean patch side by side, because the probes read
    them apart; AdamW in place of LARS.
    """

    learns_from: ClassVar[LearnsFrom] = "crops"
    paints: ClassVar[bool] = False
    couples: ClassVar[bool] = True

    width: Width = 8192
    layers: Annotated[int, Field(ge=1)] = 3
    redundancy: Annotated[float, Field(gt=0)] = 0.0051
    scale: Annotated[float, Field(gt=0)] = 1.0

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        return BarlowHead(self, encoder, self.recipe(channels))


class BarlowHead(Head):
    def __init__(self, barlow: Barlow, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__()
        self.barlow, self.encoder, self.recipe = barlow, encoder, recipe
        width = encoder.width * (1 if encoder.vit.cls_token is None else 2)
        parts: list[nn.Module] = []
        for _ in range(barlow.layers - 1):
            parts += [nn.Linear(width, barlow.width, bias=False), BatchNorm1d(barlow.width), nn.ReLU()]
            width = barlow.width
        self.project = nn.Sequential(*parts, nn.Linear(width, barlow.width, bias=False))

    def forward(self, given: Examples) -> Outcome:
        first, second = (self.features(view) for view in given.views)
        on_diagonal, off_diagonal = correlation_errors(first, second)
        loss = self.barlow.scale * (on_diagonal + self.barlow.redundancy * off_diagonal)
        logs = {"loss/invariance": on_diagonal.detach(), "loss/redundancy": off_diagonal.detach()}
        return Outcome(loss, logs=logs)

    def features(self, view: View) -> Tensor:
        """(B, width) float32 projected features of what the view leaves."""
        encoded: Encoded = self.encoder(view.images, view.present, view.replaced, view.length)
        return precise(self.project(torch.cat(list(self.encoder.pool(encoded).values()), 1)))


def correlation_errors(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distance of the cross-correlation of two (B, D), over all processes' rows, from the identity, on the
    diagonal and off it."""
    with torch.autocast(first.device.type, enabled=False):  # in bf16 a diagonal near 1 has no gradient left
        first, second = standardised(first), standardised(second)
        correlation = mean(first.T @ second / len(first))
        diagonal = correlation.diagonal()
        squared = diagonal.square().sum()
        return (diagonal - 1).square().sum(), correlation.square().sum() - squared
