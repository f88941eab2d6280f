"""Hiding patches that look like a few random ones (Cluster Masking)."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from maskbench.strategy import Context, Grid, Ratio, Share, Strategy, Tensor, View, dataclass, hide, register


class Threshold(nn.Module):
    """The correlation () above which patches are hidden."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


@register("cluster")
@dataclass(frozen=True, kw_only=True)
class Cluster(Strategy):
    """Hides every patch that correlates with one of a few random anchors: whole regions that look alike disappear.

    Wei, Pan, Owens, "Efficient Vision-Language Pre-training by Cluster Masking", CVPR 2024, arXiv 2405.08815, where it
    drops tokens of CLIP's image encoder. A patch is hidden where its Pearson correlation with an anchor exceeds
    `threshold`, given or calibrated on a sample so that `ratio` is hidden on average; but the share `least` is hidden
    at least, which raises that average. `exact` hides the best correlated up to the count. Deviations: the reference's
    released threshold is the target ratio by mistake and its padding is not masked; here both are as the paper means
    them; if fewer than `least` correlate, the next best are masked, not random ones. The threshold is calibrated before
    `least` is applied, as in the reference: of 512 images of CIFAR-10 at 8 x 8 patches 52.5 % are masked on average,
    51.1 % without `least`; of 154 photographs of clothes at 14 x 14 patches 53.0 %, and 50.2 % without it. It may be
    negative, where the reference's search ends at 0.

    Attributes:
        ratio: Share of the patches masked on average, or of every image if `exact`, in (0, 1).
        threshold: Correlation, in [-1, 1], above which a patch is masked; None: calibrated to `ratio` on a sample.
        anchors: Share of the patches that are anchors, in (0, 1).
        least: Share of the patches, in [0, 1], masked at least.
        exact: True: the best correlated are masked, as many as `ratio` says.
    """

    version: ClassVar[int] = 2  # 1 was calibrated on the first images, of one class where folders are classes

    ratio: Ratio = 0.5
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    anchors: Ratio = 0.03
    least: Share = 0.3
    exact: bool = False

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        if self.exact or self.threshold is not None:
            return None
        generator = torch.Generator(sample.device).manual_seed(0)
        draws = torch.rand(len(sample), grid.size, generator=generator, device=sample.device)
        correlation = self.correlate(sample, grid, draws)
        return Threshold(correlation.flatten().quantile(1 - self.ratio))

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        correlation = self.correlate(images, grid, context.uniform(grid.size))
        if self.exact:
            count = grid.count(self.ratio)
            return View(images, hide(correlation, count), length=grid.size - count)
        threshold: float | Tensor | None = self.threshold
        if threshold is None:
            assert isinstance(context.module, Threshold), "fitted by build"
            threshold = context.module.value
        return View(images, (correlation > threshold) | hide(correlation, grid.count(self.least)))

    def correlate(self, images: Tensor, grid: Grid, draws: Tensor) -> Tensor:
        """(B, N): each patch's highest correlation with an anchor, 2 for the anchors, which `draws` (B, N) choose."""
        patches = grid.patchify(images)
        patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
        patches = F.normalize(patches - patches.mean(-1, keepdim=True), dim=-1, eps=1e-6)
        chosen = draws.topk(grid.count(self.anchors), 1).indices
        anchors = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[-1]))
        return (patches @ anchors.transpose(1, 2)).amax(-1).scatter(1, chosen, 2.0)
