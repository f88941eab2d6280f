"""What objectives that compare two crops of an image have in common."""

from dataclasses import dataclass, replace

from maskbench.data.color_jitter import ColorJitter
from maskbench.errors import UsageError
from maskbench.objective import Objective, Recipe


@dataclass(frozen=True, kw_only=True)
class TwoCrops(Objective):
    """Two crops of the run's size, from `data.crop_scale`, which the strategy degrades.

    `colour`: BYOL's changes of colour. The two crops are blurred with probability 1 and 0.1 and solarised with 0 and
    0.2; smaller crops are blurred with 0.5.
    """

    colour: bool = True

    def recipe(self, channels: int) -> Recipe:
        """The crops. UsageError where colours are to be changed and the images have none."""
        if not self.colour:
            return Recipe((None, None))
        if channels != 3:
            raise UsageError(
                f"objective {self.name} changes colours, which images of {channels} channels have not; "
                f"add :colour=false to it"
            )
        base = ColorJitter()
        full = (replace(base, blur=1.0), replace(base, blur=0.1, solarize=0.2))
        return Recipe(full, local_colours=replace(base, blur=0.5))
