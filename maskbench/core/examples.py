"""What a step gives an objective."""

from dataclasses import dataclass

from torch import Tensor

from maskbench.core.view import View


@dataclass(frozen=True)
class Examples:
    """What a step gives an objective.

    views: the strategy's view of each full-size crop, complete. clean: those crops (B, C, H, W) undegraded.
    local: the smaller crops (B, C, h, w). labels: (B,) int64, for supervised objectives alone. last: False where other
    parts of the same batch follow before the step is made.
    """

    views: tuple[View, ...]
    clean: tuple[Tensor, ...]
    labels: Tensor
    local: tuple[Tensor, ...] = ()
    last: bool = True

    @property
    def view(self) -> View:
        """The only one."""
        (view,) = self.views
        return view
