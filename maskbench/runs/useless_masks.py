"""Masks from which nothing can be learnt, counted on a sample before a run: those that hide nothing, or everything."""

import dataclasses
from dataclasses import dataclass

import torch

from maskbench.config.settings import RunConfig
from maskbench.core.grid import Grid
from maskbench.core.view import hides_nothing, shows_nothing
from maskbench.data.splits import Splits
from maskbench.strategy import Strategy
from maskbench.training.crops import sample_crops
from maskbench.training.train_state import TrainState
from maskbench.training.views import make_context, make_view

IMAGES, DRAWS = 32, 8  # some strategies draw once for a batch, so that one batch would not do
IMAGES_WITH_SIGNALS, DRAWS_WITH_SIGNALS = 8, 4  # where an encoder runs for every draw


@dataclass(frozen=True)
class UselessMasks:
    """Shares of the masks in a sample.

    Attributes:
        strategy: The strategy's name.
        grid: The patches of an image.
        tried: Masks in the sample.
        empty: Share, in [0, 1], that hide nothing.
        full: Share, in [0, 1], that hide everything.
    """

    strategy: str
    grid: Grid
    tried: int
    empty: float
    full: float

    @property
    def reason_to_refuse(self) -> str | None:
        """Why the run cannot teach anything, and what helps; None where some masks are of use."""
        if self.empty + self.full < 1:
            return None
        what = {(1.0, 0.0): "nothing", (0.0, 1.0): "everything"}.get((self.empty, self.full), "nothing or everything")
        return (
            f"{self.strategy} hides {what} of every image on {self._where}; use smaller patches, larger images or "
            f"another ratio"
        )

    @property
    def warning(self) -> str | None:
        """What to say of a run that can be carried out; None where all masks are of use."""
        shares = {"nothing": self.empty, "everything": self.full}
        parts = [f"{what} of {share:.1%} of the images" for what, share in shares.items() if share]
        if not parts:
            return None
        return (
            f"{self.strategy} hides {' and '.join(parts)} on {self._where}, from which nothing can be learnt; smaller "
            f"patches or larger images help"
        )

    @property
    def _where(self) -> str:
        return f"{self.grid.rows} x {self.grid.cols} patches ({self.tried} masks tried)"


@torch.no_grad()
def count_useless_masks(config: RunConfig, strategy: Strategy, splits: Splits, state: TrainState) -> UselessMasks:
    """Draw masks for some training images, from the beginning to the end of training.

    Images that a strategy leaves whole on purpose, by its parameter `masked`, are not counted.
    """
    if "masked" in {field.name for field in dataclasses.fields(strategy)}:
        strategy = strategy.replace(masked=1.0)
    images, draws = (IMAGES_WITH_SIGNALS, DRAWS_WITH_SIGNALS) if strategy.needs else (IMAGES, DRAWS)
    grid = state.head.encoder.grid
    crops = sample_crops(config, strategy, splits, images, colours=state.head.recipe.full[0])
    empty, full = [], []
    for draw in range(draws):
        context = make_context(config, strategy, state, crops, epoch=draw, progress=draw / (draws - 1))
        view = make_view(strategy, crops, context)
        empty.append(hides_nothing(view, grid))
        full.append(shows_nothing(view))
    tried = torch.cat(empty)
    return UselessMasks(
        strategy.name, grid, len(tried), tried.double().mean().item(), torch.cat(full).double().mean().item()
    )
