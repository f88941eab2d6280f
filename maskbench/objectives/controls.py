"""The controls, two rows that make a table readable: an encoder without training, and one trained on the labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.models.encoder import Encoder
from maskbench.objective import Examples, Head, Objective, StepOutput, register


@register("random-init")
@dataclass(frozen=True, kw_only=True)
class RandomInit(Objective):
    """The encoder as initialised, never trained: the floor that any pre-training must leave behind."""

    control: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        return UntrainedHead(encoder)


@register("supervised")
@dataclass(frozen=True, kw_only=True)
class Supervised(Objective):
    """The encoder trained on the labels, with the same data, crops and budget as the self-supervised ones.

    It never sees the validation images, whose labels choose for the probes later. A linear classifier reads the class
    token and the mean patch side by side, so that both are trained, because the probes read them apart. The loss is
    cross-entropy.
    """

    control: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    version: ClassVar[int] = 2  # 1 trained on the validation images, too

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        return SupervisedHead(encoder, classes)


class UntrainedHead(Head):
    """An encoder that stays as it is."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, examples: Examples) -> StepOutput:
        raise AssertionError("this encoder is never trained")


class SupervisedHead(Head):
    """A linear classifier of the class token and the mean patch."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        poolings = 1 if encoder.vit.cls_token is None else 2
        self.classify = nn.Linear(poolings * encoder.width, classes)
        nn.init.zeros_(self.classify.bias)
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, examples: Examples) -> StepOutput:
        features = torch.cat(list(self.encoder.pooled_features(examples.view.images).values()), 1)
        return StepOutput(F.cross_entropy(at_least_float32(self.classify(features)), examples.labels))
