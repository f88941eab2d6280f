"""From a view and a predicted image to the loss, in anybody's training loop."""

import dataclasses

import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.core.view import View
from maskbench.errors import UsageError
from maskbench.objectives.pixel_loss import Error, Normalise, ensure_normalisable, pixel_loss


def recovery_loss(
    prediction: Tensor, view: View, *, patch_size: int, normalise: Normalise = "none", error: Error = "l2"
) -> Tensor:
    """The loss of a model that recovers the images of a view, as the objectives of maskbench compute it.

    It is the sum over the view's terms of scale * sum(weight * error) / sum(weight), over the whole batch; by default
    the mean error of the masked patches. It is computed in the prediction's type, at least float32, also
    under autocast.

    Args:
        prediction: (B, C, H, W) predicted images, or (B, N, patch_size * patch_size * C) predicted patches with their
            values by row, column and channel, as a masked autoencoder's decoder gives them.
        view: What `degrade` or `Masking` returned.
        patch_size: Side of a patch in pixels.
        normalise: How targets are normalised: "none"; "patch": each patch to mean 0 and variance 1 (MAE's
            norm_pix_loss); "patch-channel": each channel of a patch by itself.
        error: "l2" for squared errors, "l1" for absolute ones.

    Returns:
        () the loss, with its graph.

    Raises:
        UsageError: The prediction has another shape, the view leaves nothing to recover, or a patch is too small to be
            normalised. It is a ValueError.
    """
    return _losses(prediction, view, patch_size, normalise, error)[0]


def patch_losses(
    prediction: Tensor, view: View, *, patch_size: int, normalise: Normalise = "none", error: Error = "l2"
) -> Tensor:
    """The mean error of each patch, seen or masked, for strategies that learn from it.

    Args:
        prediction: As for `recovery_loss`, and so are the others.
        view: What `degrade` or `Masking` returned.
        patch_size: Side of a patch in pixels.
        normalise: How targets are normalised.
        error: "l2" or "l1".

    Returns:
        (B, N), without a graph.

    Raises:
        UsageError: As for `recovery_loss`; or the view is compared in another geometry, where patches have no error.
    """
    each = _losses(prediction.detach(), view, patch_size, normalise, error)[1]
    if each is None:
        raise UsageError("this view is compared in another geometry than the images', so its patches have no error")
    return each


def _losses(
    prediction: Tensor, view: View, patch_size: int, normalise: Normalise, error: Error
) -> tuple[Tensor, Tensor | None]:
    grid = Grid.of(view.images, patch_size)
    channels = view.images.shape[1]
    patches = (len(view.images), grid.size, patch_size**2 * channels)
    if prediction.shape == patches:
        prediction = grid.unpatchify(prediction)
    if prediction.shape != view.images.shape:
        raise UsageError(
            f"prediction must be images {tuple(view.images.shape)} or patches {patches}, is {tuple(prediction.shape)}"
        )
    if not view.terms:
        raise UsageError("this view leaves nothing to recover; choose a strategy that hides or degrades something")
    ensure_normalisable(normalise, grid, channels)
    prediction = at_least_float32(prediction)
    with torch.autocast(prediction.device.type, enabled=False):
        return pixel_loss(prediction, _convert(view, prediction.dtype), grid, normalise=normalise, error=error)


def _convert(view: View, dtype: torch.dtype) -> View:
    """The view with targets and weights of the prediction's type: half precision cannot count the pixels of an image,
    and a warp takes one type alone."""

    def converted(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(dtype)

    terms = tuple(
        dataclasses.replace(term, target=converted(term.target), weight=converted(term.weight)) for term in view.terms
    )
    return dataclasses.replace(view, terms=terms)
