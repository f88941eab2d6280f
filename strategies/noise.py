"""Gaussian noise, in pixels or along the principal components of patches (denoising)."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from maskbench.strategy import Context, Grid, Positive, Strategy, Tensor, Term, View, dataclass, register

Schedule = Literal["linear", "fixed", "vp", "ddpm", "edm"]


class PrincipalComponents(nn.Module):
    """Principal components of patches of P values: their mean (P,), the basis (P, P), a component a column, the largest
    first, and the overall standard deviation () of those that are kept."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("scale", scale)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


@register("noise")
@dataclass(frozen=True, kw_only=True)
class Noise(Strategy):
    """Adds noise of a random level; the clean image must be recovered.

    Chen, Liu, Xie, He, "Deconstructing Denoising Diffusion Models for Self-Supervised Learning" (l-DAE), ICLR 2025,
    arXiv 2401.14404 (no code published). Space "patch-pca": a patch becomes its first `components` principal
    components, noise is added to these and the rest is lost; the error is weighed 1 along these and `rest` along the
    others. Space "pixel": noise on every value. Levels: "linear", sigma uniform below `sigma`; "fixed", sigma; "vp",
    signal^2 uniform; "ddpm", the linear beta schedule of DDAE (arXiv 2303.09769); "edm", its log-normal sigma. Weights:
    1 / (1 + sigma^2), under vp and ddpm signal^2 (l-DAE's for clean targets; DDAE weighs the noise's error by 1), under
    edm EDM's, all relative to the other images of the batch. Deviations: sigma is in units of the components' overall
    standard deviation, which the paper leaves open; the model learns the level from `condition` only if the objective
    passes it on; components are fitted on a sample of the data.

    Attributes:
        space: Where noise is added: principal components of patches ("patch-pca") or "pixel".
        schedule: How levels are drawn, see above.
        sigma: Noise level, or the highest one, above 0, for the schedules "fixed" and "linear".
        components: Principal components of a patch that are kept, 1 or more.
        rest: Weight, 0 or more, of the error along the components that are lost.
    """

    version: ClassVar[int] = 2  # 1 was fitted to the first images, of one class where folders are classes

    space: Literal["patch-pca", "pixel"] = "patch-pca"
    schedule: Schedule = "linear"
    sigma: Positive = 2**0.5
    components: Annotated[int, Field(ge=1)] = 32
    rest: Annotated[float, Field(ge=0)] = 0.1

    def build(self, sample: Tensor, grid: Grid, dim: int) -> nn.Module | None:
        if self.space == "pixel":
            return None
        patches = grid.patchify(sample).flatten(0, 1).double()
        mean = patches.mean(0)
        centred = patches - mean
        variance, basis = torch.linalg.eigh(centred.T @ centred / len(centred))
        scale = variance.flip(0)[: self.components].mean().clamp_min(1e-12).sqrt()
        return PrincipalComponents(mean.float(), basis.flip(1).float(), scale.float())

    def __call__(self, images: Tensor, context: Context) -> View:
        signal, sigma, weight = (value[:, None, None] for value in self.draw_level(context))
        if self.space == "pixel":
            signal, sigma, weight = signal[..., None], sigma[..., None], weight[..., None]
            noisy = signal * images + sigma * context.normal(*images.shape[1:])
            return View(noisy.to(images.dtype), terms=(Term(weight=weight),), condition=sigma.flatten())
        grid, fitted = context.grid, context.module
        assert isinstance(fitted, PrincipalComponents), "fitted by build"
        patches = _at_least_float32(grid.patchify(images))
        kept = fitted.basis[:, : self.components].to(patches.dtype)
        latent = (patches - fitted.mean) @ kept
        latent = signal * latent + sigma * fitted.scale * context.normal(*latent.shape[1:])
        noisy = grid.unpatchify(latent @ kept.T + fitted.mean).to(images.dtype)

        def components(picture: Tensor) -> Tensor:
            """A patch's components in place of its values, which keeps squared distances."""
            patches = _at_least_float32(grid.patchify(picture))
            return grid.unpatchify(patches @ fitted.basis.to(patches.dtype))

        first = torch.arange(len(fitted.basis), device=images.device) < self.components
        weight = weight * torch.where(first, 1.0, self.rest).expand(len(images), grid.size, -1)
        term = Term(weight=grid.unpatchify(weight), warp=components, warp_target=True)
        return View(noisy, terms=(term,), condition=sigma.flatten())

    def draw_level(self, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) each: what the signal and the noise are multiplied by, and the weight of the image's error."""
        if self.schedule == "edm":  # for data of unit variance: twice the sigma of EDM's data at 0.5
            sigma = 2 * torch.exp(1.2 * context.normal(1)[:, 0] - 1.2)
            return torch.ones_like(sigma), sigma, (sigma.square() + 1) / sigma.square()
        time = context.uniform(1)[:, 0]
        if self.schedule in ("vp", "ddpm"):
            kept = 1 - time
            if self.schedule == "ddpm":
                beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64, device=time.device)
                kept = (1 - beta).cumprod(0).float()[(time * 1000).long()]
            return kept.sqrt(), (1 - kept).sqrt(), kept
        sigma = self.sigma * (time if self.schedule == "linear" else torch.ones_like(time))
        return torch.ones_like(sigma), sigma, 1 / (1 + sigma.square())
