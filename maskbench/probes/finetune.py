"""Fine-tuning: the encoder trained further, end to end, with labels."""

import copy
import re
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers import DropPath
from torch import Tensor, nn

from maskbench.core.rng import derive_seed
from maskbench.data.mixup import mix_batch
from maskbench.data.splits import Split
from maskbench.models.encoder import Encoder
from maskbench.probe import Probe, ProbeResult, Subject, accuracy, extract, register
from maskbench.runtime.hardware import autocast
from maskbench.training.crops import labelled_batches
from maskbench.training.schedules import decays, warmup_cosine

Share = Annotated[float, Field(gt=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


@register("finetune")
@dataclass(frozen=True, kw_only=True)
class Finetune(Probe):
    """A copy of the encoder and a linear classifier, trained together; the encoder itself is left as it is.

    MAE's recipe (arXiv 2111.06377, appendix A.1): the mean patch through a norm of its own, which takes the place of
    the encoder's last one; AdamW with layer-wise decay of the learning rate (BEiT, arXiv 2106.08254), linear warm-up
    and half cosine to 0; label smoothing, mixup or CutMix of every batch, drop path growing linearly with depth to
    `drop_path`. What differs: fewer epochs; crops begin at 0.35 of the area and not at 0.08, too few pixels of a small
    image; no RandAugment and no random erasing, which work image by image. Other dropout stays as the model has it.

    The layer decay is chosen on validation after training on `fit` (ties: the smallest); then training starts again on
    all of train, and its last weights, not its best, predict test. By default one of two values is 1, no decay, because
    low rates for low layers presume that these have learnt something. An untrained encoder needs none, so this probe of
    the control random-init is training from scratch by the same recipe: what fine-tuning must beat.
    """

    epochs: Annotated[int, Field(ge=1)] = 20
    warmup_epochs: NotNegative = 2
    batch_size: Annotated[int, Field(ge=2)] = 256  # or all images where they are fewer
    blr: Annotated[float, Field(gt=0)] = 1e-3  # per 256 images
    layer_decays: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.75, 1.0)
    weight_decay: NotNegative = 0.05
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    mixup: NotNegative = 0.8
    cutmix: NotNegative = 1.0
    crop_scale: tuple[Share, Share] = (0.35, 1.0)

    def __call__(self, subject: Subject) -> ProbeResult:
        splits, layer_decay = subject.splits, self.choose_layer_decay(subject)
        model = self.train_model(subject, torch.arange(len(splits.train)), layer_decay)
        predicted = predict(subject, model, splits.test)
        top1 = accuracy(predicted, splits.test.labels)
        return ProbeResult(
            {"finetune/top1/mean": top1}, {"finetune/mean": predicted}, {"finetune/layer_decay/mean": layer_decay}
        )

    def choose_layer_decay(self, subject: Subject) -> float:
        """The layer decay with the best accuracy on validation after training on `fit`."""
        layer_decays, held_out = sorted(self.layer_decays), subject.validation_split
        if len(layer_decays) == 1:
            return layer_decays[0]
        models = (self.train_model(subject, subject.splits.fit, layer_decay) for layer_decay in layer_decays)
        scores = [accuracy(predict(subject, model, held_out), held_out.labels) for model in models]
        return layer_decays[scores.index(max(scores))]

    def train_model(self, subject: Subject, index: Tensor, layer_decay: float) -> "FinetuneModel":
        """Train a new model on the training images `index`; whatever else is random is the same every time."""
        splits, seed, device = subject.splits, subject.seed, subject.encoder.mask_token.device
        classes = len(splits.classes)
        batch_size = min(self.batch_size, len(index))
        per_epoch = len(index) // batch_size
        warmup, total = round(self.warmup_epochs * per_epoch), self.epochs * per_epoch
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "finetune"))  # for paths that are dropped
            model = FinetuneModel(subject.encoder, classes, self.drop_path).train()
            optimizer = torch.optim.AdamW(layer_groups(model, layer_decay, self.weight_decay), lr=0.0, fused=True)
            batches = labelled_batches(
                splits, index, subject.encoder.grid.image_size,
                seed=seed, stream="finetune", epochs=self.epochs, batch_size=batch_size, scale=self.crop_scale,
                workers=subject.system.workers,
            )  # fmt: skip
            with closing(batches):
                for step, (images, labels) in enumerate(batches):
                    generator = np.random.default_rng(derive_seed(seed, "finetune", "mixing", step))
                    targets = F.one_hot(labels, classes).float()
                    images, targets = mix_batch(images, targets, generator, mixup=self.mixup, cutmix=self.cutmix)
                    with autocast(subject.system):
                        logits = model(images)
                    loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    for group in optimizer.param_groups:
                        group["lr"] = group["scale"] * warmup_cosine(
                            self.blr * batch_size / 256, 0.0, step, warmup, total
                        )
                    optimizer.step()
        return model


class FinetuneModel(nn.Module):
    """A copy of an encoder, on its device, and a linear classifier of its mean patch."""

    def __init__(self, encoder: Encoder, classes: int, drop_path: float) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        vit = self.encoder.vit
        vit.norm = nn.Identity()
        for block, rate in zip(vit.blocks, np.linspace(0, drop_path, len(vit.blocks)), strict=True):
            block.drop_path1 = block.drop_path2 = DropPath(float(rate))  # has no state of its own
        self.norm = nn.LayerNorm(encoder.width, eps=1e-6)
        self.classify = nn.Linear(encoder.width, classes)
        nn.init.normal_(self.classify.weight, std=2e-5)
        nn.init.zeros_(self.classify.bias)
        self.to(encoder.mask_token.device)

    def forward(self, images: Tensor) -> Tensor:
        """(B, classes) logits."""
        return self.classify(self.norm(self.encoder.pooled_features(images)["mean"]))


def layer_groups(model: FinetuneModel, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's parameter groups with layer-wise decay of the learning rate.

    `scale`, a factor of the learning rate, is 1 for the classifier and its norm, layer_decay for the last block, and so
    on, down to layer_decay ** (depth + 1) for patch embedding, positions and class token.
    """
    depth = len(model.encoder.vit.blocks)
    members: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        members.setdefault((layer_of(name, depth), decays(name, parameter)), []).append(parameter)
    return [
        {"params": params, "scale": layer_decay ** (depth + 1 - layer), "weight_decay": weight_decay * decayed}
        for (layer, decayed), params in members.items()
    ]


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter: 0 before the blocks, 1 to depth in that block, depth + 1 after them."""
    if block := re.match(r"encoder\.vit\.blocks\.(\d+)\.", name):
        return int(block[1]) + 1
    return 0 if name.startswith("encoder.") else depth + 1


def predict(subject: Subject, model: FinetuneModel, images: Split) -> Tensor:
    """(n,) int64 predicted classes of clean images."""

    def read(batch: Tensor) -> dict[str, Tensor]:
        return {"classes": model(batch).argmax(1)}

    return extract(model.encoder, images, subject.splits, subject.system, read)["classes"]
