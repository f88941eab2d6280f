"""Recovery of degraded pixels from the average of several blocks (GMML's own head and loss)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import precise
from maskbench.core.view import View
from maskbench.models.encoder import Encoder
from maskbench.objective import Examples, Head, Objective, Outcome, Recipe, register
from maskbench.objectives.pixel_loss import Error, Normalise, recovery_loss, refuse_flat

Share = Annotated[float, Field(gt=0, le=1)]


@register("gmml")
@dataclass(frozen=True, kw_only=True)
class GmmlRecovery(Objective):
    """Averages what the later blocks say, and recovers pixels by an MLP and a transposed convolution; L1.

    Atito, Awais, Nandam, Kittler, "GMML is All you Need", ICIP 2023, arXiv 2205.14986: the mean of blocks 6, 8, 10 and
    12 of 12, then the last norm, three layers (linear, GELU) as wide as the encoder, and a transposed convolution of
    one patch's size; the absolute error is averaged over the corrupted pixels of the whole batch. `blocks` are shares
    of the encoder's depth, rounded up. Hidden tokens, which GMML's own corruption never has, become mask tokens.
    `crops` = 2: a second crop of each image, as published; the two losses are averaged. Deviations: one crop by
    default, so that all see as many images; no drop path, no light jitter of the clean image.
    """

    crops: Annotated[int, Field(ge=1, le=2)] = 1

    blocks: tuple[Share, ...] = (1 / 2, 2 / 3, 5 / 6, 1.0)
    normalise: Normalise = "none"
    error: Error = "l1"

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        refuse_flat(self.normalise, grid, channels)
        return GmmlHead(self, encoder, grid, channels)


class GmmlHead(Head):
    def __init__(self, gmml: GmmlRecovery, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.recipe = Recipe((None,) * gmml.crops)
        self.gmml, self.encoder, self.grid = gmml, encoder, grid
        depth = len(encoder.vit.blocks)
        self.read = sorted({-(-int(share * depth * 1000) // 1000) for share in gmml.blocks})
        layers = [module for _ in range(3) for module in (nn.Linear(encoder.width, encoder.width), nn.GELU())]
        self.mlp = nn.Sequential(*layers)
        for module in layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        # as torch initialises it, like the reference's
        self.paint = nn.ConvTranspose2d(encoder.width, channels, kernel_size=grid.patch, stride=grid.patch)

    def forward(self, given: Examples) -> Outcome:
        outcomes = tuple(self.recovered(view) for view in given.views)
        return outcomes[0]._replace(loss=torch.stack([outcome.loss for outcome in outcomes]).mean(), each=outcomes)

    def recovered(self, view: View) -> Outcome:
        """The loss on one crop."""
        tokens = self.mlp(self.encoder.with_mask_tokens(view, read=self.read).patches)
        cells = tokens.transpose(1, 2).unflatten(2, (self.grid.rows, self.grid.cols))
        prediction = precise(self.paint(cells))
        gmml = self.gmml
        loss, patch_loss = recovery_loss(prediction, view, self.grid, normalise=gmml.normalise, error=gmml.error)
        return Outcome(loss, patch_loss, prediction)
