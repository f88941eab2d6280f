"""What a record holds besides accuracy: data, model, cost, masks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from maskbench.config.record_schema import LARGEST
from maskbench.config.settings import RunConfig
from maskbench.data.splits import Splits
from maskbench.data.streaming import StreamedImages
from maskbench.models.encoder import timm_arguments
from maskbench.objective import Head, Objective
from maskbench.runs.plan import Plan
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.collapse import MIN_STEPS
from maskbench.training.crops import make_crops, sample_crops, sample_indices
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.mask_statistics import Diagnostics, diagnose
from maskbench.training.train_state import TrainState
from maskbench.training.trivial_predictions import sign_of_no_learning, trivial_losses
from maskbench.training.views import make_context, make_view

T = TypeVar("T", float, float | list[list[float]])
MEASURED = 256  # images


def describe_component(component: Strategy | Objective) -> dict[str, Any]:
    """Name, version and parameters, for the record."""
    return {"name": component.name, "version": component.version, "parameters": component.parameters}


def describe_data(splits: Splits, probed: Splits) -> dict[str, Any]:
    """What a run was trained on and, where they are others, the data that its probes are about."""
    named: dict[str, Any] = {"name": splits.name, "fingerprint": splits.fingerprint, "sizes": splits.sizes}
    moments = {"mean": splits.mean.tolist(), "std": splits.std.tolist()}
    if isinstance(splits.train, StreamedImages):
        named["streamed"] = True
    if probed is splits:
        return named | moments
    return named | moments | {"probed": {"name": probed.name, "fingerprint": probed.fingerprint, "sizes": probed.sizes}}


def describe_model(config: RunConfig, head: Head) -> dict[str, Any]:
    """What `timm.create_model` needs to make a model that encoder.safetensors fits, and how large it is."""
    encoder = sum(parameter.numel() for parameter in head.encoder.vit.parameters())
    everything = sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
    return {
        "name": config.model.name,
        "arguments": timm_arguments(head.encoder.grid, config.data.in_chans, config.model.kwargs),
        "encoder_parameters": encoder,
        "head_parameters": everything - encoder,
    }


def keep_readable(numbers: Mapping[str, T], warnings: dict[str, None]) -> dict[str, T]:
    """The numbers that a record can hold: all that are finite, and accuracies in [0, 1]. Of others, such as a probe of
    the user's own may return, a warning names each: the rest of a finished run is worth keeping."""
    kept = {}
    for name, value in numbers.items():
        flat = np.ravel(np.asarray(value, dtype=float))
        is_share = "/top1/" not in name or bool(((flat >= 0) & (flat <= 1)).all())
        if (np.abs(flat) <= LARGEST).all() and is_share:
            kept[name] = value
        else:
            why = "only finite numbers are recorded" if is_share else "an accuracy is a share in [0, 1]"
            shown = value if isinstance(value, int | float) else "not finite everywhere"
            warnings[f"{name} is {shown} and left out: {why}"] = None
    return kept


def measure_costs(
    config: RunConfig, strategy: Strategy, splits: Splits, state: TrainState, watch: Stopwatch
) -> dict[str, float]:
    """Throughput and where the time went; empty where no epoch was finished."""
    if watch.total_s == 0:
        return {}
    batch, steps, phases = config.train.batch_size, watch.steps, watch.phases_s
    model_s = sum(phases[name] for name in ("teacher", "forward", "backward", "optimizer"))
    return {
        "cost/images_per_s": batch * steps / watch.total_s,
        "cost/model_images_per_s": batch * steps / model_s,
        "cost/mask_ms": 1000 * phases["mask"] / steps,
        "cost/mask_share": phases["mask"] / watch.total_s,
        "cost/augment_share": phases["augment"] / watch.total_s,
        "cost/data_wait_share": phases["data"] / watch.total_s,
        "cost/train_s": watch.total_s,
        "cost/gflops_per_image": training_gflops_per_image(config, splits, strategy, state),
    }


@torch.no_grad()
def measure_masks(config: RunConfig, strategy: Strategy, splits: Splits, state: TrainState) -> Diagnostics:
    """What the masks of a sample of training images look like at the end of training, in epochs 0 and 1.

    The realised ratio and the shares of useless masks are over all images of the run; the latter are missing where an
    older version of maskbench began it. Empty if nothing was trained.
    """
    count, total, squares = state.ratio_sums.tolist()
    if count == 0:
        return {}
    crops = [sample_crops(config, strategy, splits, MEASURED, epoch, state.head.recipe.full[0]) for epoch in (0, 1)]
    view, again = (
        make_view(strategy, each, make_context(config, strategy, state, each, epoch, progress=1.0))
        for epoch, each in enumerate(crops)
    )
    masks = diagnose(view, again, state.head.encoder.grid, object_shares(config, strategy, splits))
    mean = total / count
    masks |= {"realised_ratio_mean": mean, "realised_ratio_sd": max(0.0, squares / count - mean**2) ** 0.5}
    if state.useless_sums.isfinite().all():
        masks["hides_nothing"], masks["hides_everything"] = (state.useless_sums / count).tolist()
    return masks


def measure_views(plan: Plan, splits: Splits, state: TrainState, warnings: dict[str, None]) -> Diagnostics:
    """What the masks look like, and what trivial predictions would lose on them. Where training lost as much, a line is
    added to `warnings`."""
    masks = measure_masks(plan.config, plan.strategy, splits, state)
    if not plan.objective.trains:
        return masks
    losses = trivial_losses(plan.config, plan.strategy, plan.objective, splits, state)
    judged = state.curve and state.step >= MIN_STEPS and state.module is None  # whose loss the strategy has no part in
    sign = sign_of_no_learning(state.curve[-1]["loss"], losses) if judged else None
    if sign is not None:
        warnings[sign] = None
    return {**masks, **losses}


def object_shares(config: RunConfig, strategy: Strategy, splits: Splits) -> Tensor | None:
    """(B, N) share of each patch that shows the object, same images, epoch 0; None where the data do not know it."""
    objects = splits.train.objects
    if objects is None:
        return None
    index = sample_indices(splits, MEASURED)
    pixels = objects[index.to(objects.device), None].to(index.device, torch.uint8) * 255
    masks = replace(splits.train.take(index), pixels=pixels)
    grey = replace(splits, mean=splits.mean.new_zeros(1), std=splits.std.new_ones(1))
    crops = make_crops(config, strategy, grey, masks, index, 0).images
    return torch.nn.functional.avg_pool2d(crops, config.model.patch_size).flatten(1)
