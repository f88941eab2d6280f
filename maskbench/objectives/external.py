"""An encoder from elsewhere, so that it can stand in the same table."""

from dataclasses import dataclass
from typing import ClassVar

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.encoder import Encoder
from maskbench.objective import Head, Objective, register
from maskbench.objectives.controls import Untrained


@register("external")
@dataclass(frozen=True, kw_only=True)
class External(Objective):
    """An encoder trained elsewhere, as it is; `maskbench probe` makes runs of it.

    source: as for maskbench.models.pretrained.read_encoder. label: what tables call it. digest: of its weights, which
    are what a run is known by, wherever they lie.
    """

    source: str = ""
    label: str = ""
    digest: str = ""

    control: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        from maskbench.models.pretrained import load_into, read_encoder

        if not self.source:
            raise UsageError("objective external needs an encoder; use `maskbench probe ENCODER`")
        foreign = read_encoder(self.source)
        if foreign.digest != self.digest:
            raise UsageError(f"{self.source} has changed since; use `maskbench probe {self.source}`")
        load_into(encoder.vit, foreign.state, foreign.grid)
        return Untrained(encoder)
