"""Fog from a network that learns where it hurts."""

from typing import ClassVar

from torch import nn

from maskbench.strategy import (
    Context,
    Grid,
    Positive,
    Ratio,
    StepOutput,
    Strategy,
    Tensor,
    Term,
    View,
    dataclass,
    register,
    scale_gradient,
)


@register("learned-fog")
@dataclass(frozen=True, kw_only=True)
class LearnedFog(Strategy):
    """Mixes noise into every patch; a small network decides how much, to raise the objective's loss.

    The network climbs where the encoder descends: its gradient from the loss is reversed. `held`
    draws its mean share of noise to `density`, so that it cannot cover everything.
    """

    experimental: ClassVar[bool] = True  # `maskbench list` marks it

    density: Ratio = 0.5
    held: Positive = 1.0

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        """From the pixels of a patch to its share of noise; joins optimizer and checkpoints."""
        pixels = sample.shape[1] * grid.patch**2
        return nn.Sequential(nn.Linear(pixels, 32), nn.GELU(), nn.Linear(32, 1))

    def __call__(self, images: Tensor, context: Context) -> View:
        assert context.module is not None, "made by build"
        grid = context.grid
        patches = grid.patchify(images.float())  # the network is float32, images may be of any type
        fog = context.module(patches)[..., 0].sigmoid().to(images.dtype)  # (B, N) in (0, 1)
        context.kept["fog"] = fog  # for `loss`, which sees the same context
        mixed = grid.pixels(scale_gradient(fog, -1))  # (B, 1, H, W), gradient reversed
        noise = context.normal(*images.shape[1:]).to(images.dtype)
        foggy = images + mixed * (noise - images)
        return View(foggy, terms=(Term(weight=fog.detach()),))  # every token is seen

    def loss(self, view: View, output: StepOutput, context: Context) -> Tensor | None:
        """Added to the objective's loss; its gradient reaches the network as it is."""
        return self.held * (context.kept["fog"].mean() - self.density) ** 2
