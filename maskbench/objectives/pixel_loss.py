"""The loss of a predicted image under a view's terms, shared by every objective that predicts pixels."""

from typing import Literal

import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.core.view import MicroBatchTerm, Term, View
from maskbench.errors import UsageError

Normalise = Literal["none", "patch", "patch-channel"]
Error = Literal["l1", "l2"]


def pixel_loss(
    prediction: Tensor, view: View, grid: Grid, *, normalise: Normalise, error: Error
) -> tuple[Tensor, Tensor | None]:
    """The loss of predicted images: the sum over the view's terms of scale * sum(weight * error) / sum(weight).

    Sums run over the whole batch, so images with more weight count for more.

    Args:
        prediction: (B, C, H, W) float32.
        view: What is to be predicted, and with which weights.
        grid: The patches of an image.
        normalise: How targets are normalised, see `normalise_patches`.
        error: "l1" for absolute errors, "l2" for squared ones.

    Returns:
        The loss (), and the mean error of each patch (B, N) under the first term, detached; None where that term
        compares in another geometry.
    """
    total = prediction.new_zeros(())
    patch_loss = None
    for term in view.terms:
        with torch.autocast(prediction.device.type, enabled=False):  # a warp may multiply matrices
            errors, weight = _term_errors(prediction, term, grid, normalise, error)
        weight = weight.expand(errors.shape)
        weight_sum = term.mean_weight * errors.numel() if isinstance(term, MicroBatchTerm) else weight.sum()
        total = total + term.scale * (weight * errors).sum() / weight_sum.clamp_min(1e-8)
        if term is view.terms[0] and term.warp is None:
            patch_loss = grid.patchify(errors.detach()).mean(-1)
    return total, patch_loss


def _term_errors(
    prediction: Tensor, term: Term, grid: Grid, normalise: Normalise, error: Error
) -> tuple[Tensor, Tensor]:
    """Elementwise errors in the geometry of comparison, and the weight, broadcastable to them."""
    target, weight = term.target, term.weight
    assert target is not None and weight is not None, "the view is complete"
    target = normalise_patches(at_least_float32(target), grid.patch, normalise)
    if term.warp is not None:
        prediction = term.warp(prediction)
        target = term.warp(target) if term.warp_target else target
    difference = (prediction - target).abs()
    if weight.ndim == 2:
        weight = grid.pixels(weight)
    return difference if error == "l1" else difference.square(), weight


def normalise_patches(images: Tensor, patch: int, normalise: Normalise) -> Tensor:
    """Bring every patch of images (B, C, H, W) to mean 0 and variance 1 (unbiased, + 1e-6 as in MAE).

    "patch": over all its values (MAE); "patch-channel": each channel apart (Beyond Masking); "none": unchanged.
    """
    if normalise == "none":
        return images
    patches, mean, variance = _patch_moments(images, patch, normalise)
    return ((patches - mean) * (variance + 1e-6).rsqrt()).reshape(images.shape)


def denormalise_patches(prediction: Tensor, images: Tensor, patch: int, normalise: Normalise) -> Tensor:
    """The inverse: give each patch of a normalised `prediction` (B, C, H, W) its mean and contrast in `images`."""
    if normalise == "none":
        return prediction
    patches, mean, variance = _patch_moments(images, patch, normalise)
    return (prediction.reshape(patches.shape) * (variance + 1e-6).sqrt() + mean).reshape(images.shape)


def _patch_moments(images: Tensor, patch: int, normalise: Normalise) -> tuple[Tensor, Tensor, Tensor]:
    """Images as patches (B, C, rows, patch, cols, patch), and the mean and variance of each, broadcastable to them."""
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    variance, mean = torch.var_mean(patches, (3, 5) if normalise == "patch-channel" else (1, 3, 5), keepdim=True)
    return patches, mean, variance


def ensure_normalisable(normalise: Normalise, grid: Grid, channels: int) -> None:
    """Raise UsageError where a single value would be normalised: it has no contrast."""
    values = {"none": 2, "patch": channels, "patch-channel": 1}[normalise] * grid.patch**2
    if values == 1:
        raise UsageError(
            f"normalise={normalise} makes nothing of a single value; use normalise=none, or larger patches"
        )
