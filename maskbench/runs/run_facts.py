"""What a record says of a run beside accuracy: cost, masks, model."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maskbench.config.schema import RunConfig
from maskbench.data.splits import Splits
from maskbench.data.streaming import Streamed
from maskbench.models.encoder import create_arguments
from maskbench.objective import Head, Objective
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.crops import crops, sample, sampled
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.mask_statistics import Diagnostics, diagnose
from maskbench.training.train_state import State
from maskbench.training.views import context_for, degraded

DIAGNOSED = 256  # images


def about(component: Strategy | Objective) -> dict[str, Any]:
    """Name, version and parameters, for the record."""
    return {"name": component.name, "version": component.version, "parameters": component.parameters}


def about_data(splits: Splits, asked: Splits) -> dict[str, Any]:
    """What a run was trained on and, where they are others, the data that its probes are about."""
    named: dict[str, Any] = {"name": splits.name, "fingerprint": splits.fingerprint, "sizes": splits.sizes}
    moments = {"mean": splits.mean.tolist(), "std": splits.std.tolist()}
    if isinstance(splits.train, Streamed):
        named["streamed"] = True
    if asked is splits:
        return named | moments
    return named | moments | {"probed": {"name": asked.name, "fingerprint": asked.fingerprint, "sizes": asked.sizes}}


def model_facts(config: RunConfig, head: Head) -> dict[str, Any]:
    """What `timm.create_model` needs to make a model that encoder.safetensors fits, and how large it is."""
    encoder = sum(parameter.numel() for parameter in head.encoder.vit.parameters())
    everything = sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
    return {
        "name": config.model.name,
        "arguments": create_arguments(head.encoder.grid, config.data.in_chans, config.model.kwargs),
        "encoder_parameters": encoder,
        "head_parameters": everything - encoder,
    }


def costs(config: RunConfig, strategy: Strategy, splits: Splits, state: State, watch: Stopwatch) -> dict[str, float]:
    """Throughput and its breakdown; empty where no epoch was finished."""
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
def diagnostics(config: RunConfig, strategy: Strategy, splits: Splits, state: State) -> Diagnostics:
    """Geometry of the masks of `sampled` training images, as at the end of the training, in epochs 0 and 1;
    realised ratio over all images of the run. Empty if nothing was trained."""
    count, total, squares = state.ratio_sums.tolist()
    if count == 0:
        return {}
    batches = [sample(config, strategy, splits, DIAGNOSED, epoch, state.head.recipe.full[0]) for epoch in (0, 1)]
    view, again = (
        degraded(strategy, batch, context_for(config, strategy, state, batch, epoch, progress=1.0))
        for epoch, batch in enumerate(batches)
    )
    found = diagnose(view, again, state.head.encoder.grid, object_shares(config, strategy, splits))
    mean = total / count
    return found | {"realised_ratio_mean": mean, "realised_ratio_sd": max(0.0, squares / count - mean**2) ** 0.5}


def object_shares(config: RunConfig, strategy: Strategy, splits: Splits) -> Tensor | None:
    """(B, N) how much of each patch of `sample`'s images in epoch 0 shows the object, where the data set knows it."""
    objects = splits.train.objects
    if objects is None:
        return None
    index = sampled(splits, DIAGNOSED)
    pixels = objects[index.to(objects.device), None].to(index.device, torch.uint8) * 255
    masks = replace(splits.train.take(index), pixels=pixels)
    grey = replace(splits, mean=splits.mean.new_zeros(1), std=splits.std.new_ones(1))
    shown = crops(config, strategy, grey, masks, index, 0).images
    return torch.nn.functional.avg_pool2d(shown, config.model.patch_size).flatten(1)
