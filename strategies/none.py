"""No degradation."""

from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, register


@register("none")
@dataclass(frozen=True, kw_only=True)
class NoMask(Strategy):
    """The images as they are, nothing to recover: for the controls, and for objectives that compare crops."""

    def __call__(self, images: Tensor, context: Context) -> View:
        return View(images, terms=())
