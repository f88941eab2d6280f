"""The two rows that make a table readable: what no training gives, and what labels give."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import precise
from maskbench.models.encoder import Encoder
from maskbench.objective import Examples, Head, Objective, Outcome, register


@register("random-init")
@dataclass(frozen=True, kw_only=True)
class RandomInit(Objective):
    """The encoder as initialised, never trained: the floor that any pre-training must leave behind."""

    control: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        return Untrained(encoder)


@register("supervised")
@dataclass(frozen=True, kw_only=True)
class Supervised(Objective):
    """The encoder trained on the labels, same data, crops and budget: what the self-supervised ones are up against.

    A linear classifier reads the class token and the mean patch side by side, so that both, which the probes read
    apart, are trained; cross-entropy.
    """

    control: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        return Classifier(encoder, classes)


class Untrained(Head):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, given: Examples) -> Outcome:
        raise AssertionError("random-init is never trained")


class Classifier(Head):
    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        poolings = 1 if encoder.vit.cls_token is None else 2
        self.classify = nn.Linear(poolings * encoder.width, classes)
        nn.init.zeros_(self.classify.bias)
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, given: Examples) -> Outcome:
        features = torch.cat(list(self.encoder.pooled(given.view.images).values()), 1)
        return Outcome(F.cross_entropy(precise(self.classify(features)), given.labels))
