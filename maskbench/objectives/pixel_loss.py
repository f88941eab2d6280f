"""The error of a recovered image under a view's terms: shared by every objective that predicts pixels."""

from typing import Literal

import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.step_output import precise
from maskbench.core.view import Term, View
from maskbench.errors import UsageError

Normalise = Literal["none", "patch", "patch-channel"]
Error = Literal["l1", "l2"]


def refuse_flat(how: Normalise, grid: Grid, channels: int) -> None:
    """UsageError where what is normalised is a single value, which has no contrast."""
    values = {"none": 2, "patch": channels, "patch-channel": 1}[how] * grid.patch**2
    if values == 1:
        raise UsageError(f"normalise={how} makes nothing of a single value; use normalise=none, or larger patches")


def normalised(images: Tensor, patch: int, how: Normalise) -> Tensor:
    """Images (B, C, H, W) with every patch at mean 0 and variance 1 (unbiased, + 1e-6 as in MAE).

    "patch": over all its values (MAE); "patch-channel": each channel apart (Beyond Masking); "none": unchanged.
    """
    if how == "none":
        return images
    cells, variance, mean = _cells(images, patch, how)
    return ((cells - mean) * (variance + 1e-6).rsqrt()).reshape(images.shape)


def restored(prediction: Tensor, images: Tensor, patch: int, how: Normalise) -> Tensor:
    """The inverse of `normalised`: a `prediction` (B, C, H, W) of it with the mean and contrast that each patch has in
    `images`."""
    if how == "none":
        return prediction
    cells, variance, mean = _cells(images, patch, how)
    return (prediction.reshape(cells.shape) * (variance + 1e-6).sqrt() + mean).reshape(images.shape)


def _cells(images: Tensor, patch: int, how: Normalise) -> tuple[Tensor, Tensor, Tensor]:
    """Images as patches (B, C, rows, patch, cols, patch), and the variance and mean of each, broadcastable to them."""
    batch, channels, height, width = images.shape
    cells = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    variance, mean = torch.var_mean(cells, (3, 5) if how == "patch-channel" else (1, 3, 5), keepdim=True)
    return cells, variance, mean


def recovery_loss(
    prediction: Tensor, view: View, grid: Grid, *, normalise: Normalise, error: Error
) -> tuple[Tensor, Tensor | None]:
    """(scalar, (B, N) or None): the sum over the view's terms of scale * sum(weight * error) / sum(weight), and the
    mean error of each patch under the first term, detached; None where that term compares in another geometry.

    prediction: (B, C, H, W) float32. Sums run over the whole batch, so images with more weight count for more.
    """
    total = prediction.new_zeros(())
    patch_loss = None
    for term in view.terms:
        with torch.autocast(prediction.device.type, enabled=False):  # a warp may multiply matrices
            errors, weight = _errors(prediction, term, grid, normalise, error)
        weight = weight.expand(errors.shape)
        whole = weight.sum() if term.density is None else term.density * errors.numel()
        total = total + term.scale * (weight * errors).sum() / whole.clamp_min(1e-8)
        if term is view.terms[0] and term.warp is None:
            patch_loss = grid.patchify(errors.detach()).mean(-1)
    return total, patch_loss


def _errors(prediction: Tensor, term: Term, grid: Grid, normalise: Normalise, error: Error) -> tuple[Tensor, Tensor]:
    """Elementwise errors in the geometry of comparison, and the weight, broadcastable to them."""
    target, weight = term.target, term.weight
    assert target is not None and weight is not None, "the view is complete"
    target = normalised(precise(target), grid.patch, normalise)
    if term.warp is not None:
        prediction = term.warp(prediction)
        target = term.warp(target) if term.warp_target else target
    difference = (prediction - target).abs()
    if weight.ndim == 2:
        weight = grid.pixels(weight)
    return difference if error == "l1" else difference.square(), weight
