"""The reconstruction: what a trained objective predicts where something was hidden or degraded, as an image."""

import torch
from torch import Tensor

from maskbench.core.view import View
from maskbench.objective import Examples
from maskbench.objectives.pixel_loss import Normalise, denormalise_patches
from maskbench.runs.plan import Plan
from maskbench.runtime.hardware import autocast
from maskbench.training.train_state import TrainState


@torch.no_grad()
def reconstruct(plan: Plan, state: TrainState, images: Tensor, view: View) -> Tensor | None:
    """(B, C, H, W), normalised as `images`: the prediction where the first term weighs it, the view elsewhere. None
    for objectives that predict no pixels, or compare them in another geometry.

    Where targets are normalised patch by patch, each patch gets the mean and contrast that it has in the clean image,
    which the encoder does not see: such a target leaves them open.
    """
    head, objective = state.head, plan.objective
    if not (objective.predicts_pixels and objective.trains and len(head.recipe.full) == 1):
        return None
    if not view.terms or view.terms[0].warp is not None:
        return None
    training = head.training
    head.eval()
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    with autocast(plan.config.system):
        prediction = head(Examples((view,), (images,), labels)).prediction
    head.train(training)
    if prediction is None:
        return None
    how: Normalise = getattr(objective, "normalise", "none")
    target, weight = view.terms[0].target, view.terms[0].weight
    assert target is not None and weight is not None, "the view is complete"
    prediction = denormalise_patches(prediction.float(), target.float(), head.encoder.grid.patch, how)
    weighted = head.encoder.grid.pixels(weight) if weight.ndim == 2 else weight
    return torch.where(weighted.expand_as(prediction) > 0, prediction.to(view.images.dtype), view.images)
