"""A pretrained encoder as an objective that trains nothing, so that it can stand in the same table."""

import shlex
from dataclasses import dataclass
from typing import ClassVar

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.encoder import Encoder
from maskbench.objective import Head, Objective, register
from maskbench.objectives.controls import UntrainedHead


@register("external")
@dataclass(frozen=True, kw_only=True)
class External(Objective):
    """An encoder trained elsewhere, as it is; `maskbench probe` makes runs of it.

    `source`: as for maskbench.models.encoder_sources.read_encoder. `label`: its name in tables. `digest`: of its
    weights, by which a run is known wherever they are stored. `part`: which of the state dicts in the file they are,
    such as `teacher`; empty where there is only one.
    """

    source: str = ""
    label: str = ""
    digest: str = ""
    part: str = ""

    control: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        from maskbench.models.encoder_sources import read_encoder
        from maskbench.models.pretrained import load_weights

        if not self.source:
            raise UsageError("objective external needs an encoder; use `maskbench probe ENCODER`")
        pretrained = read_encoder(self.source)
        if pretrained.digest != self.digest:
            raise UsageError(f"{self.source} has changed since; use `maskbench probe {shlex.quote(self.source)}`")
        load_weights(encoder.vit, pretrained.state, pretrained.grid)
        return UntrainedHead(encoder)
