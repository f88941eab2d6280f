"""No degradation: what the controls train on."""

from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, register


@register("none")
@dataclass(frozen=True, kw_only=True)
class NoMask(Strategy):
    """The images as they are. The control rows `random-init` and `supervised` use it."""

    def __call__(self, images: Tensor, context: Context) -> View:
        return View(images)
