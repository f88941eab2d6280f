"""GMML: degraded pixels are recovered from the average of several blocks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.core.view import View
from maskbench.models.encoder import Encoder
from maskbench.objective import Examples, Head, Objective, Recipe, StepOutput, register
from maskbench.objectives.pixel_loss import Error, Normalise, ensure_normalisable, pixel_loss

Share = Annotated[float, Field(gt=0, le=1)]


@register("gmml")
@dataclass(frozen=True, kw_only=True)
class Gmml(Objective):
    """Averages the outputs of later blocks, and recovers pixels by an MLP and a transposed convolution; L1.

    Atito, Awais, Nandam, Kittler, "GMML is All you Need", ICIP 2023, arXiv 2205.14986: the mean of blocks 6, 8, 10 and
    12 of 12, then the last norm, three layers (linear, GELU) as wide as the encoder, and a transposed convolution of
    one patch's size; the absolute error is averaged over the corrupted pixels of the whole batch. `blocks` are shares
    of the encoder's depth, rounded up. Hidden tokens, which GMML's own corruption never has, become mask tokens.
    `crops` = 2: a second crop of each image, as published; the two losses are averaged. Deviations: one crop by
    default, so that every objective sees as many images; no drop path, no light jitter of the clean image.
    """

    crops: Annotated[int, Field(ge=1, le=2)] = 1

    blocks: tuple[Share, ...] = (1 / 2, 2 / 3, 5 / 6, 1.0)
    normalise: Normalise = "none"
    error: Error = "l1"

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        ensure_normalisable(self.normalise, grid, channels)
        return GmmlHead(self, encoder, grid, channels)


class GmmlHead(Head):
    """The MLP and the transposed convolution."""

    def __init__(self, config: Gmml, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.recipe = Recipe((None,) * config.crops)
        self.config, self.encoder, self.grid = config, encoder, grid
        self.averaged_blocks = block_numbers(config.blocks, len(encoder.vit.blocks))
        layers = [module for _ in range(3) for module in (nn.Linear(encoder.width, encoder.width), nn.GELU())]
        self.mlp = nn.Sequential(*layers)
        for module in layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        # Initialised by torch's default, like the reference's. Its name is a key of checkpoints.
        self.paint = nn.ConvTranspose2d(encoder.width, channels, kernel_size=grid.patch, stride=grid.patch)

    def forward(self, examples: Examples) -> StepOutput:
        outputs = tuple(self.predict_crop(view) for view in examples.views)
        return outputs[0]._replace(loss=torch.stack([output.loss for output in outputs]).mean(), each=outputs)

    def predict_crop(self, view: View) -> StepOutput:
        """Predict one crop and compute its loss."""
        tokens = self.mlp(self.encoder.encode_with_mask_tokens(view, read=self.averaged_blocks).patches)
        token_map = tokens.transpose(1, 2).unflatten(2, (self.grid.rows, self.grid.cols))
        prediction = at_least_float32(self.paint(token_map))
        config = self.config
        loss, patch_loss = pixel_loss(prediction, view, self.grid, normalise=config.normalise, error=config.error)
        return StepOutput(loss, patch_loss, prediction)


def block_numbers(shares: Iterable[float], depth: int) -> list[int]:
    """Blocks, counted from 1, at these shares of the depth, rounded up: of 12, 1/2 and 0.55 are 6 and 7.

    To thousandths of a block: 2/3 of 12 is 8 also where the product of floats is a little more.
    """
    return sorted({math.ceil(int(share * depth * 1000) / 1000) for share in shares})
