"""What predictions that understand nothing would lose on the same views: a training that does not beat them has learned
nothing of use."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from maskbench.config.settings import RunConfig
from maskbench.core.grid import Grid
from maskbench.core.view import View
from maskbench.data.splits import Splits
from maskbench.objective import Objective
from maskbench.objectives.pixel_loss import Error, Normalise, normalise_patches, pixel_loss
from maskbench.strategy import Strategy
from maskbench.training.crops import sample_crops
from maskbench.training.mask_statistics import hidden_tokens
from maskbench.training.train_state import TrainState
from maskbench.training.views import make_context, make_view

MEASURED = 256  # images
PREFIX = "trivial/"  # of the names in a record's diagnostics
MEANINGS = {
    "constant": "0, the mean of all targets",
    "neighbours": "the mean of the visible neighbours",
    "nearest": "a copy of the nearest visible patch",
    "input": "the image as the encoder sees it",
}


@torch.no_grad()
def trivial_losses(
    config: RunConfig, strategy: Strategy, objective: Objective, splits: Splits, state: TrainState
) -> dict[str, float]:
    """The loss of each trivial prediction, by "trivial/" and its name, on views of a sample at the end of training.
    Empty for objectives that recover no pixels of one crop."""
    how: Normalise | None = getattr(objective, "normalise", None)
    error: Error | None = getattr(objective, "error", None)
    if not objective.predicts_pixels or how is None or error is None or len(state.head.recipe.full) != 1:
        return {}
    crops = sample_crops(config, strategy, splits, MEASURED, colours=state.head.recipe.full[0])
    view = make_view(strategy, crops, make_context(config, strategy, state, crops, epoch=0, progress=1.0))
    grid = state.head.encoder.grid
    return {
        PREFIX + name: pixel_loss(prediction, view, grid, normalise=how, error=error)[0].item()
        for name, prediction in trivial_predictions(view, grid, how).items()
    }


def trivial_predictions(view: View, grid: Grid, normalise: Normalise) -> dict[str, Tensor]:
    """Predicted images (B, C, H, W), normalised as targets are, by a name of MEANINGS, and patch-mean.

    constant is 0: images, and normalised patches, have that mean. neighbours is the mean over the up to eight patches
    around that are visible; without any, over all that are. It and nearest need visible patches beside hidden ones.
    input is for views that degrade pixels. patch-mean is for comparison: it knows the target's mean in each channel of
    a patch, and is left out where the first term compares in another geometry.
    """
    if not view.terms:
        return {}
    predictions = {"constant": torch.zeros_like(view.images, dtype=torch.float32)}
    term, seen = view.terms[0], normalise_patches(view.images.float(), grid.patch, normalise)
    if term.warp is None:
        assert term.target is not None, "the view is complete"
        target = grid.patchify(normalise_patches(term.target.float(), grid.patch, normalise))
        by_channel = target.unflatten(-1, (-1, view.images.shape[1]))
        predictions["patch-mean"] = grid.unpatchify(by_channel.mean(2, keepdim=True).expand_as(by_channel).flatten(2))
    if view.hidden is None:
        predictions["input"] = seen
    hidden = hidden_tokens(view, grid)
    if hidden is not None and not hidden.all(1).any():
        patches = grid.patchify(seen)
        predictions["neighbours"] = grid.unpatchify(_mean_of_neighbours(patches, ~hidden, grid))
        predictions["nearest"] = grid.unpatchify(_nearest(patches, ~hidden, grid))
    return predictions


def _mean_of_neighbours(patches: Tensor, visible: Tensor, grid: Grid) -> Tensor:
    """patches (B, N, D), visible (B, N) bool -> (B, N, D)."""
    weight = visible.to(patches.dtype)[..., None]
    sums = [_sum_around(values, grid) for values in (patches * weight, weight)]
    everywhere = (patches * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    return torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1), everywhere)


def _sum_around(values: Tensor, grid: Grid) -> Tensor:
    """The sum over the patches around each, itself left out: (B, N, D) -> (B, N, D)."""
    maps = values.transpose(1, 2).unflatten(2, (grid.rows, grid.cols))
    return (9 * F.avg_pool2d(maps, 3, 1, 1) - maps).flatten(2).transpose(1, 2)


def _nearest(patches: Tensor, visible: Tensor, grid: Grid) -> Tensor:
    """Of each patch the nearest visible one, itself left out, the first of those at one distance."""
    number = torch.arange(grid.size, device=patches.device)
    places = torch.stack([number // grid.cols, number % grid.cols], 1).double()
    distance = torch.cdist(places, places).fill_diagonal_(torch.inf)
    far = distance.masked_fill(~visible[:, None], torch.inf)
    return patches.gather(1, far.argmin(2)[..., None].expand_as(patches))


def sign_of_no_learning(curve_loss: float, losses: Mapping[str, float]) -> str | None:
    """That the last epoch's loss is not below that of the best prediction in MEANINGS, as a line."""
    known = [PREFIX + name for name in MEANINGS if PREFIX + name in losses]
    if not known:
        return None
    best = min(known, key=lambda name: losses[name])
    if curve_loss < losses[best]:
        return None
    meaning = MEANINGS[best.removeprefix(PREFIX)]
    return (
        f"the loss at the end, {curve_loss:.3g}, is not below that of a trivial prediction ({meaning}: "
        f"{losses[best]:.3g}); train longer, hide less, or change the learning rate"
    )
