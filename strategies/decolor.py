"""One random mixture of the channels (Beyond Masking's de-colorized task)."""

from maskbench.strategy import Context, Scope, Strategy, Tensor, View, dataclass, register


@register("decolor")
@dataclass(frozen=True, kw_only=True)
class Decolor(Strategy):
    """Shows one random mixture of the channels in place of each; the colours must be recovered.

    Tian et al., "Beyond Masking: Demystifying Token-Based Pre-Training for Vision Transformers", 2022, arXiv
    2203.14313: weights uniform in [0, 2 / channels), 1 together on average, drawn once for the batch (scope "batch").
    Deviations: of the two versions released, which contradict each other, the one that can be run; the mixture is
    repeated to the image's channels, where the reference's patch embedding takes one.

    Attributes:
        scope: "batch": one mixture is drawn for all images; "image": one for each.
    """

    scope: Scope = "batch"

    def __call__(self, images: Tensor, context: Context) -> View:
        channels = images.shape[1]
        weight = context.uniform(channels, 1, 1, high=2 / channels, scope=self.scope).to(images.dtype)
        return View((weight * images).sum(1, keepdim=True).expand_as(images).contiguous())
