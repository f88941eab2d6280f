"""Masked image modelling with mask tokens: every token enters the encoder, a light head predicts pixels (SimMIM)."""

from dataclasses import dataclass

from torch import nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import precise
from maskbench.models.encoder import Encoder
from maskbench.objective import Examples, Head, Objective, Outcome, register
from maskbench.objectives.pixel_loss import Error, Normalise, recovery_loss, refuse_flat


@register("simmim")
@dataclass(frozen=True, kw_only=True)
class Simmim(Objective):
    """Mask tokens stand where patches are hidden; one linear layer predicts the pixels; L1 on the hidden ones.

    Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv 2111.09886: raw pixel targets,
    the mask token put in after the patch embedding and before positions are added, and the loss averaged over hidden
    pixels and channels of the whole batch. Thrown tokens are left out of the sequence. Deviations: positions are
    absolute, where the reference's ViT has relative ones as well; no drop path.
    """

    normalise: Normalise = "none"
    error: Error = "l1"

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        refuse_flat(self.normalise, grid, channels)
        return SimmimHead(self, encoder, grid, channels)


class SimmimHead(Head):
    def __init__(self, simmim: Simmim, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.simmim, self.encoder, self.grid = simmim, encoder, grid
        nn.init.trunc_normal_(encoder.mask_token, std=0.02)
        self.predict = nn.Linear(encoder.width, grid.patch**2 * channels)
        nn.init.xavier_uniform_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def forward(self, given: Examples) -> Outcome:
        patches = precise(self.predict(self.encoder.with_mask_tokens(given.view).patches))
        prediction = self.grid.unpatchify(patches)
        simmim = self.simmim
        loss, patch_loss = recovery_loss(
            prediction, given.view, self.grid, normalise=simmim.normalise, error=simmim.error
        )
        return Outcome(loss, patch_loss, prediction)
