"""Barlow Twins: two crops of an image get the same features, and no feature repeats another."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.core.view import View
from maskbench.models.batch_norm import BatchNorm1d, standardise
from maskbench.models.encoder import Encoder
from maskbench.models.tokens import EncodedTokens
from maskbench.objective import Examples, Head, LearnsFrom, Recipe, StepOutput, register
from maskbench.objectives.two_crops import TwoCrops
from maskbench.runtime.collectives import all_reduce_mean

Width = Annotated[int, Field(ge=2)]


@register("barlow")
@dataclass(frozen=True, kw_only=True)
class Barlow(TwoCrops):
    """The cross-correlation of two crops' projected features, over the batch, is drawn towards the identity.

    Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
    arXiv 2103.03230: features are standardised over the global batch (biased variance, epsilon 1e-5); loss = sum of
    (c_ii - 1)^2 + `redundancy` * sum of c_ij^2 off the diagonal, times `scale`. The projector: `layers` - 1 times
    linear, batch norm, ReLU, then linear, none with a bias. Needs no strategy; with one, tokens that it hides are
    left out. Deviations: the projector reads the class token and the mean patch side by side, because the probes read
    them apart; AdamW in place of LARS.
    """

    learns_from: ClassVar[LearnsFrom] = "crops"
    predicts_pixels: ClassVar[bool] = False
    compares_images: ClassVar[bool] = True

    width: Width = 8192
    layers: Annotated[int, Field(ge=1)] = 3
    redundancy: Annotated[float, Field(gt=0)] = 0.0051
    scale: Annotated[float, Field(gt=0)] = 1.0

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        return BarlowHead(self, encoder, self.recipe(channels))


class BarlowHead(Head):
    """The projector."""

    def __init__(self, config: Barlow, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__()
        self.config, self.encoder, self.recipe = config, encoder, recipe
        width = encoder.width * (1 if encoder.vit.cls_token is None else 2)
        layers: list[nn.Module] = []
        for _ in range(config.layers - 1):
            layers += [nn.Linear(width, config.width, bias=False), BatchNorm1d(config.width), nn.ReLU()]
            width = config.width
        self.project = nn.Sequential(*layers, nn.Linear(width, config.width, bias=False))

    def forward(self, examples: Examples) -> StepOutput:
        first, second = (self.features(view) for view in examples.views)
        on_diagonal, off_diagonal = correlation_errors(first, second)
        loss = self.config.scale * (on_diagonal + self.config.redundancy * off_diagonal)
        logs = {"loss/invariance": on_diagonal.detach(), "loss/redundancy": off_diagonal.detach()}
        return StepOutput(loss, logs=logs)

    def features(self, view: View) -> Tensor:
        """(B, width) float32 projected features of the tokens that the view leaves."""
        encoded: EncodedTokens = self.encoder(view.images, view.present, view.replaced, view.length)
        return at_least_float32(self.project(torch.cat(list(self.encoder.pool(encoded).values()), 1)))


def correlation_errors(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """How far the cross-correlation c of two (B, D), over the rows of all processes, is from the identity.

    Returns:
        Sum of (c_ii - 1)^2, and sum of c_ij^2 off the diagonal.
    """
    with torch.autocast(first.device.type, enabled=False):  # in bf16 a diagonal near 1 has no gradient left
        first, second = standardise(first), standardise(second)
        correlation = all_reduce_mean(first.T @ second / len(first))
        diagonal = correlation.diagonal()
        squared = diagonal.square().sum()
        return (diagonal - 1).square().sum(), correlation.square().sum() - squared
