"""An uneven blur (Beyond Masking's blurred task)."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import AfterValidator, Field

from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, register


def _ensure_odd(side: int) -> int:
    if side % 2 == 0:
        raise ValueError(f"Input should be odd, is {side}")
    return side


Odd = Annotated[int, Field(ge=3), AfterValidator(_ensure_odd)]


@register("blur")
@dataclass(frozen=True, kw_only=True)
class Blur(Strategy):
    """Convolves each channel with a nearly flat random kernel; the sharp image must be recovered.

    Tian et al., "Beyond Masking: Demystifying Token-Based Pre-Training for Vision Transformers", 2022, arXiv
    2203.14313. Deviations: the released code does not run (its kernels do not fit the image). This one follows the
    paper: kernels of `side` x `side` weights N(1 / side^2, `noise`), drawn for each image and channel, zeros around the
    image. Their sums vary by side * noise; `renormalise` divides by them.

    Attributes:
        side: Side of the kernels in pixels, odd, 3 or more.
        noise: Standard deviation of a kernel's weights, 0 or more.
        renormalise: True: each kernel is divided by the sum of its weights.
    """

    side: Odd = 7
    noise: Annotated[float, Field(ge=0)] = 0.02
    renormalise: bool = False

    def __call__(self, images: Tensor, context: Context) -> View:
        batch, channels, height, width = images.shape
        kernels = 1 / self.side**2 + self.noise * context.normal(channels, self.side, self.side)
        if self.renormalise:
            kernels = kernels / kernels.sum((2, 3), keepdim=True)
        kernels = kernels.reshape(batch * channels, 1, self.side, self.side).to(images.dtype)
        stacked = images.reshape(1, batch * channels, height, width)
        blurred = F.conv2d(stacked, kernels, padding=self.side // 2, groups=batch * channels)
        return View(blurred.view_as(images))
