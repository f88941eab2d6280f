"""SimMIM: every token enters the encoder, masked ones as mask tokens, and a linear layer predicts pixels."""

from dataclasses import dataclass

from torch import nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.models.encoder import Encoder
from maskbench.objective import Examples, Head, Objective, StepOutput, register
from maskbench.objectives.pixel_loss import Error, Normalise, ensure_normalisable, pixel_loss


@register("simmim")
@dataclass(frozen=True, kw_only=True)
class Simmim(Objective):
    """Mask tokens stand where patches are hidden; one linear layer predicts the pixels; L1 on the hidden ones.

    Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, arXiv 2111.09886: raw pixel targets,
    the mask token put in after the patch embedding and before positions are added, and the loss averaged over hidden
    pixels and channels of the whole batch. Dropped tokens are left out of the sequence. Deviations: positions are
    absolute, where the reference's ViT has relative ones as well; no drop path.
    """

    normalise: Normalise = "none"
    error: Error = "l1"

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        ensure_normalisable(self.normalise, grid, channels)
        return SimmimHead(self, encoder, grid, channels)


class SimmimHead(Head):
    """The linear prediction head."""

    def __init__(self, config: Simmim, encoder: Encoder, grid: Grid, channels: int) -> None:
        super().__init__()
        self.config, self.encoder, self.grid = config, encoder, grid
        nn.init.trunc_normal_(encoder.mask_token, std=0.02)
        self.predict = nn.Linear(encoder.width, grid.patch**2 * channels)
        nn.init.xavier_uniform_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def forward(self, examples: Examples) -> StepOutput:
        view, config = examples.view, self.config
        patches = at_least_float32(self.predict(self.encoder.encode_with_mask_tokens(view).patches))
        prediction = self.grid.unpatchify(patches)
        loss, patch_loss = pixel_loss(prediction, view, self.grid, normalise=config.normalise, error=config.error)
        return StepOutput(loss, patch_loss, prediction)
