"""A small image in a frame of its own mirror images (Beyond Masking's zoomed-out task)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

from maskbench.strategy import Context, Scope, Strategy, Tensor, Term, View, dataclass, register


@register("zoom-out")
@dataclass(frozen=True, kw_only=True)
class ZoomOut(Strategy):
    """Shows the image shrunk, at a random place, with its mirror images around it; the prediction is read as the image
    at full size.

    Tian et al., "Beyond Masking: Demystifying Token-Based Pre-Training for Vision Transformers", 2022, arXiv
    2203.14313. The prediction is shrunk and mirrored as the image was, and compared there, so mirrored pixels count
    several times. As published the place is drawn once for the batch (scope "batch"). Deviations: the small image is
    the crop resized by area, where the reference crops at the small size and magnifies the target; the released code
    cannot run without a token mask, which the pure task does not have.

    Attributes:
        share: Side of the small image as a share of the whole, in (0, 1).
        scope: "batch": one place is drawn for all images; "image": one for each.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 160 / 224
    scope: Scope = "batch"

    def __call__(self, images: Tensor, context: Context) -> View:
        sides = images.shape[2:]
        small = tuple(max(1, round(side * self.share)) for side in sides)
        rows, cols = (
            mirror_index(side, part, context.integers(max(1, side - part), 1, scope=self.scope))
            for side, part in zip(sides, small, strict=True)
        )

        def shrink(picture: Tensor) -> Tensor:
            picture = F.interpolate(picture, size=small, mode="area")
            return picture.take_along_dim(rows[:, None, :, None], 2).take_along_dim(cols[:, None, None], 3)

        return View(shrink(images), terms=(Term(warp=shrink, warp_target=True),))


def mirror_index(side: int, part: int, start: Tensor) -> Tensor:
    """(B, side) int64: which of `part` pixels lies at each place, `start` (B, 1) the place of the first, the edge
    pixel repeated at each reflection."""
    place = (torch.arange(side, device=start.device) - start) % (2 * part)
    return torch.minimum(place, 2 * part - 1 - place)
