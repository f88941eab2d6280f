"""MAE, masked autoencoding: the common setting, in which every strategy can be compared."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.core.view import View
from maskbench.models.encoder import Encoder, build_decoder_blocks
from maskbench.models.initialisation import sine_cosine_positions
from maskbench.models.tokens import scatter_to_grid
from maskbench.objective import Examples, Head, Objective, StepOutput, register
from maskbench.objectives.pixel_loss import Error, Normalise, ensure_normalisable, pixel_loss


@register("mae")
@dataclass(frozen=True, kw_only=True)
class Mae(Objective):
    """Encode the visible patches, decode every patch, average the error by the view's weights.

    He et al., arXiv 2111.06377. Masked tokens never enter the encoder; a light decoder gets the encoded tokens, class
    token included, and a learnt mask token for each masked one, all with fixed sine-cosine positions. Dropped tokens
    enter neither. The default decoder is the paper's for 224 px; presets for small images choose a smaller one.
    `conditioned`: the decoder knows a strategy's noise level, by an embedding of log(1 + level) in sines and cosines of
    geometric frequencies and two linear layers, added to every token, as denoising models do (DiT, arXiv 2212.09748, by
    its norms). The encoder does not know it, so that it stays a plain one that needs no level when it is probed.
    """

    decoder_width: Annotated[int, Field(ge=4, multiple_of=4)] = 512
    decoder_depth: Annotated[int, Field(ge=1)] = 8
    decoder_heads: Annotated[int, Field(ge=1)] = 16
    normalise: Normalise = "patch"
    error: Error = "l2"
    conditioned: bool = False

    @property
    def takes_noise_level(self) -> bool:
        return self.conditioned

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        ensure_normalisable(self.normalise, grid, channels)
        return MaeHead(self, encoder, grid, channels, plain_attention)


class MaeHead(Head):
    """The decoder. The names of its modules are keys of checkpoints."""

    def __init__(self, config: Mae, encoder: Encoder, grid: Grid, channels: int, plain_attention: bool) -> None:
        super().__init__()
        self.config, self.encoder, self.grid = config, encoder, grid
        width = config.decoder_width
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.positions: Tensor
        self.register_buffer("positions", sine_cosine_positions(grid, width), persistent=False)
        depth, heads = config.decoder_depth, config.decoder_heads
        self.blocks = build_decoder_blocks(width, depth, heads, plain_attention=plain_attention)
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, grid.patch**2 * channels)
        level_layers = [nn.Linear(width, width), nn.Linear(width, width)] if config.conditioned else []
        self.tell = nn.Sequential(level_layers[0], nn.SiLU(), level_layers[1]) if level_layers else None
        for linear in (self.embed, self.predict, *level_layers):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, examples: Examples) -> StepOutput:
        view, config = examples.view, self.config
        prediction = self.grid.unpatchify(at_least_float32(self.decode(view)))
        loss, patch_loss = pixel_loss(prediction, view, self.grid, normalise=config.normalise, error=config.error)
        return StepOutput(loss, patch_loss, prediction)

    def decode(self, view: View) -> Tensor:
        """(B, N, patch * patch * C): the predicted values of every patch."""
        encoded = self.encoder(view.images, view.present, view.replaced, view.length)
        patches = self.embed(encoded.patches)
        if encoded.patch_index is not None:
            patches = scatter_to_grid(encoded._replace(patches=patches), self.mask_token, self.grid.size)
        prefix = self.embed(encoded.prefix)
        tokens = torch.cat([prefix, patches + self.positions.to(patches.dtype)], 1)
        if self.tell is not None:
            assert view.condition is not None, "checked by maskbench.objectives.compatibility"
            tokens = tokens + self.tell(embed_level(view.condition, tokens.shape[-1]))[:, None]
        bias = None
        if view.thrown is not None:
            kept = torch.cat([view.thrown.new_ones(len(tokens), prefix.shape[1]), ~view.thrown], 1)
            bias = self.encoder.attention_bias(kept)
        for block in self.blocks:
            tokens = block(tokens, attn_mask=bias)
        return self.predict(self.norm(tokens[:, prefix.shape[1] :]))


def embed_level(level: Tensor, width: int) -> Tensor:
    """(B, width) float32: cosines, then sines, of 1000 * log(1 + level) at frequencies from 1 down to 1 / 10,000."""
    frequency = 10_000.0 ** -(torch.arange(width // 2, device=level.device) / (width // 2))
    angle = 1000 * level.float().log1p()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)
