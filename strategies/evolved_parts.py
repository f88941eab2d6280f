"""Whole parts of objects, found by clustering (EPM)."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from maskbench.strategy import Context, Positive, Ratio, Strategy, Tensor, View, dataclass, hide, register

ROUNDS = 15  # of expectation and maximisation, as in the reference
Parts = Annotated[int, Field(ge=2)]


@register("evolved-parts")
@dataclass(frozen=True, kw_only=True)
class EvolvedParts(Strategy):
    """Hides scattered patches at first and whole parts at last, found by clustering the teacher's tokens.

    Feng and Zhang, "Evolved Part Masking for Self-Supervised Learning", CVPR 2023 (no arXiv version): soft clusters on
    the sphere (concentration `kappa`), their number falling from `first` to `last` over the training and raised by 0, 1
    or 2 at random for each image; a patch's score is (1 - a) * a draw for its place in its 2 x 2 window + a * its
    part's draw, a = progress^0.5; equal scores are ordered at random. Deviation, for which it is experimental: the
    teacher's last tokens are clustered, where the reference clusters the attention maps of all its layers.

    Attributes:
        ratio: Share of the patches masked, in (0, 1).
        first: Fewest parts of an image at the start of the training, 2 or more.
        last: Fewest parts of an image at its end, 2 or more.
        kappa: Concentration of the clusters, above 0: higher separates them more sharply.
    """

    experimental = True
    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    ratio: Ratio = 0.75
    first: Parts = 40
    last: Parts = 10
    kappa: Positive = 40.0

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        if grid.rows % 2 or grid.cols % 2:
            raise ValueError(f"evolved-parts: {grid.rows}x{grid.cols} patches do not divide into windows of 2x2")
        count = grid.count(self.ratio)
        token = torch.arange(grid.size, device=images.device)
        window = context.uniform(4, scope="batch")[:, token // grid.cols % 2 * 2 + token % grid.cols % 2]
        part = self.cluster_tokens(context)
        chance = context.uniform(grid.size).gather(1, part)
        share = context.progress**0.5
        # Ties within a part are broken at random, below the resolution of a draw.
        scores = (1 - share) * window.double() + share * chance + context.uniform(grid.size).double() * 2**-25
        return View(images, hide(scores, count), length=grid.size - count)

    def cluster_tokens(self, context: Context) -> Tensor:
        """(B, N) int64: the part of each token, numbered below the number of parts, at most N."""
        tokens = F.normalize(context.features.float(), dim=-1)
        expected = round(self.first + (self.last - self.first) * context.progress)
        most = min(expected + 2, context.grid.size)
        number = (expected + context.integers(3, 1)).clamp(max=most)  # (B, 1): differs between images
        chosen = context.uniform(context.grid.size).topk(most, 1).indices
        centres = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
        absent = torch.arange(most, device=tokens.device) >= number
        similarity = tokens @ centres.transpose(1, 2)
        for _ in range(ROUNDS):
            belongs = (self.kappa * similarity).masked_fill(absent[:, None], -torch.inf).softmax(-1)
            centres = F.normalize(belongs.transpose(1, 2) @ tokens, dim=-1)
            similarity = tokens @ centres.transpose(1, 2)
        return similarity.masked_fill(absent[:, None], -torch.inf).argmax(-1)
