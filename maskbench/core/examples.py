"""What a step passes to an objective."""

from dataclasses import dataclass

from torch import Tensor

from maskbench.core.view import View


@dataclass(frozen=True)
class Examples:
    """What a step passes to an objective: the views of a batch, and what they were made of.

    Attributes:
        views: The strategy's view of each full-size crop, with every target and weight filled in.
        clean: (B, C, H, W) each: these crops before the strategy, normalised.
        labels: (B,) int64 classes, for supervised objectives only.
        local: (B, C, h, w) each: the smaller crops, which no strategy changes. Default: none.
        last: False if other micro-batches of the same batch follow before the optimizer's step. Default True.
    """

    views: tuple[View, ...]
    clean: tuple[Tensor, ...]
    labels: Tensor
    local: tuple[Tensor, ...] = ()
    last: bool = True

    @property
    def view(self) -> View:
        """The view, for objectives of a single crop."""
        (view,) = self.views
        return view
