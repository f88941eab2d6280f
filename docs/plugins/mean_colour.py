"""The mean colour of the image from what is left of it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from maskbench.objective import Examples, Head, Objective, StepOutput, register


@register("mean-colour")
@dataclass(frozen=True, kw_only=True)
class MeanColour(Objective):
    """Predicts the mean colour of the clean image from the mean of the patches that are left."""

    predicts_pixels: ClassVar[bool] = False  # there is no loss of each patch

    scale: Annotated[float, Field(gt=0)] = 1.0

    def build(self, encoder, grid, channels, classes, *, plain_attention) -> Head:
        return MeanColourHead(self, encoder, channels)


class MeanColourHead(Head):
    """Owns the encoder, and the layer that is thrown away after pre-training."""

    def __init__(self, config: MeanColour, encoder, channels: int) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.predict = nn.Linear(encoder.width, channels)

    def forward(self, examples: Examples) -> StepOutput:
        view = examples.view
        encoded = self.encoder(view.images, view.present, view.replaced, view.length)
        guess = self.predict(self.encoder.pool(encoded)["mean"])
        error = (guess - examples.clean[0].mean((2, 3))).square().mean()
        return StepOutput(self.config.scale * error, logs={"loss/colour": error.detach()})
