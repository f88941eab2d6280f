"""Recovering more than is seen (Beyond Masking's zoomed-in tasks)."""

from typing import ClassVar

import torch.nn.functional as F

from maskbench.strategy import Context, Ratio, Share, Strategy, Tensor, Term, View, dataclass, hide, register


@dataclass(frozen=True, kw_only=True)
class WiderCrop(Strategy):
    """What both have in common: the prediction is read as a wider crop, of which the encoder sees the centre.

    Deviation: positions and tokens are those of the objective, by default 2-D sine-cosine tables, trainable in the
    encoder, and a class token, where the reference has a fixed 1-D table in both networks and no class token.

    Attributes:
        inner: Weight of the centre's loss, in [0, 1]; the border's is 1 minus it.
    """

    source_scale: ClassVar[float] = 288 / 224

    inner: Share = 0.8

    def terms(self, images: Tensor, source: Tensor, hidden: Tensor | None) -> tuple[Term, Term]:
        """The term of the centre, over `hidden` or everywhere, and the term of the four border strips around it."""
        (height, width), wide = images.shape[2:], source.shape[2:]
        top, left = (wide[0] - height) // 2, (wide[1] - width) // 2

        def widen(prediction: Tensor) -> Tensor:
            return F.interpolate(prediction, size=wide, mode="area")

        def centre(prediction: Tensor) -> Tensor:
            return widen(prediction)[:, :, top : top + height, left : left + width]

        strips = images.new_zeros(1, 1, *wide)
        for strip in (
            strips[..., :top, :],
            strips[..., top + height :, :],
            strips[..., top : top + height, :left],
            strips[..., top : top + height, left + width :],
        ):
            strip += 1 / strip.numel()
        whole = F.interpolate(source, size=(height, width), mode="area")
        return (
            Term(weight=hidden, warp=centre, scale=self.inner),
            # Four strip means summed: strips weigh 1 each, so the weighted mean is a quarter of their sum.
            Term(whole, weight=strips, warp=widen, warp_target=True, scale=4 * (1 - self.inner)),
        )


@register("zoom-in")
@dataclass(frozen=True, kw_only=True)
class ZoomIn(WiderCrop):
    """Shows the centre of a wider crop; the prediction is read as the whole wider crop.

    Tian et al., "Beyond Masking: Demystifying Token-Based Pre-Training for Vision Transformers", 2022, arXiv
    2203.14313. Deviation: the released code of the pure task crashes without a mask; it is built as the integrated
    task (zoom-in-mask), its first loss over all patches.
    """

    def __call__(self, images: Tensor, context: Context) -> View:
        return View(images, terms=self.terms(images, context.source, None))


@register("zoom-in-mask")
@dataclass(frozen=True, kw_only=True)
class ZoomInMask(WiderCrop):
    """Shows the masked centre of a wider crop; the prediction is read as the whole wider crop.

    Tian et al., "Beyond Masking: Demystifying Token-Based Pre-Training for Vision Transformers", 2022, arXiv
    2203.14313: the integrated task. The prediction, magnified to the wider crop, must match the hidden patches at its
    centre (weight `inner`) and the four border strips around it (1 - `inner` times the sum of their mean errors). Areas
    are resized by adaptive average pooling, as in the reference.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
    """

    ratio: Ratio = 0.75

    def __call__(self, images: Tensor, context: Context) -> View:
        count = context.grid.count(self.ratio)
        hidden = hide(context.uniform(context.grid.size), count)
        terms = self.terms(images, context.source, hidden)
        return View(images, hidden, length=context.grid.size - count, terms=terms)
