"""Where the object is and what it is: a linear classifier of patch tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.data.augment import central_boxes, object_shares
from maskbench.data.splits import Split, Splits, stratified_order
from maskbench.models.encoder import Encoder
from maskbench.probe import Probe, ProbeResult, Subject, register
from maskbench.probes.linear import Decays, Softmax

CHUNK = 100  # images whose classes are spread over pixels at a time: 11 classes at 224 x 224 take 211 MiB


@register("dense")
@dataclass(frozen=True, kw_only=True)
class Dense(Probe):
    """Linear segmentation: background, or the class of the object, pixel by pixel, from frozen patch tokens.

    The tokens after the last norm of clean central crops are classified as in `linear`, each patch with the shares of
    classes among its pixels as its label, on the first `images` training images of the stratified order, which bounds
    the memory. Logits are enlarged bilinearly to pixels, and the largest one is the answer, as with the linear layer of
    DINOv2 (arXiv 2304.07193). The decay is chosen by the mean intersection over union on validation (ties: the
    largest); then it is refitted, with held-out images among the first ones. miou: one confusion matrix over all pixels
    of the split, mean over the classes that occur in truth or answers. Masks are cropped and resized as the images are;
    a pixel at least half object is object. No augmentation.
    """

    images: Annotated[int, Field(ge=1)] = 2000
    decays: Decays = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # wider steps than linear's: tokens are many

    def refuses(self, encoder: Encoder, splits: Splits) -> str | None:
        parts = [splits.train, splits.test, splits.validation]
        if any(isinstance(part, Split) and part.objects is None for part in parts):
            return f"dense needs object masks, which {splits.name} has not; leave it out of --probes"
        return None

    def __call__(self, subject: Subject) -> ProbeResult:
        splits, decays = subject.splits, sorted(self.decays, reverse=True)
        order = stratified_order(splits.train.labels.cpu())
        fit = order[torch.isin(order, splits.fit.cpu())]
        tried = self.fitted(subject, fit, decays)
        scores = [mean_iou(table) for table in confusions(subject, subject.held_out, tried)]
        best = decays[scores.index(max(scores))]
        (table,) = confusions(subject, splits.test, self.fitted(subject, order, [best]))
        right = (table.diag().sum().double() / table.sum()).item()
        metrics = {"dense/miou/patches": mean_iou(table), "dense/pixel-accuracy/patches": right}
        return ProbeResult(metrics, chosen={"dense/decay/patches": best})

    def fitted(self, subject: Subject, order: Tensor, decays: list[float]) -> list[Softmax]:
        """A classifier of tokens for each decay, from the first training images of this order."""
        train, classes = subject.splits.train, len(subject.splits.classes) + 1
        images = train.take(order[: self.images].to(train.labels.device))
        read = [
            (tokens.flatten(0, 1), class_shares(truth, subject.encoder.grid, classes).flatten(0, 1))
            for tokens, truth in tokens_and_truth(subject, images)
        ]
        tokens, shares = (torch.cat(parts) for parts in zip(*read, strict=True))
        return Softmax.fit(tokens, shares, classes, decays)


def tokens_and_truth(subject: Subject, images: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunk by chunk, patch tokens (B, N, D) float32 and classes (B, H, W) int64: 0, or 1 + label on the object."""
    encoder = subject.encoder
    size, device = encoder.grid.image_size, encoder.mask_token.device
    for index in torch.arange(len(images), device=images.labels.device).split(CHUNK):
        part = images.take(index).to(device)
        objects = object_shares(part, central_boxes(part, size), size) >= 0.5
        tokens = subject.extract(part, lambda given: {"patches": encoder(given).patches.float()})["patches"]
        yield tokens, objects * (1 + part.labels[:, None, None])


def class_shares(truth: Tensor, grid: Grid, classes: int) -> Tensor:
    """(B, N, classes) float32: the share of each class among each patch's pixels, of classes (B, H, W) int64."""
    pixels = grid.patchify(truth[:, None])
    counts = torch.zeros(*pixels.shape[:2], classes, device=pixels.device)
    return counts.scatter_add_(2, pixels, torch.ones_like(pixels, dtype=counts.dtype)) / pixels.shape[2]


def answers(classifier: Softmax, tokens: Tensor, grid: Grid) -> Tensor:
    """(B, H, W) int64 classes of the pixels, from patch tokens (B, N, D)."""
    logits = classifier.logits(tokens).transpose(1, 2).unflatten(2, (grid.rows, grid.cols))
    return F.interpolate(logits, grid.image_size, mode="bilinear", align_corners=False).argmax(1)


def confusions(subject: Subject, images: Split, classifiers: list[Softmax]) -> list[Tensor]:
    """For each classifier (classes, classes) int64: all pixels by true class, in rows, and answered class."""
    grid, classes = subject.encoder.grid, len(subject.splits.classes) + 1
    tables = [torch.zeros(classes, classes, dtype=torch.int64) for _ in classifiers]
    for tokens, truth in tokens_and_truth(subject, images):
        for table, classifier in zip(tables, classifiers, strict=True):
            pairs = truth * classes + answers(classifier, tokens, grid)
            table += torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes).cpu()
    return tables


def mean_iou(table: Tensor) -> float:
    """Mean intersection over union, in [0, 1], of the classes that occur in a confusion matrix (classes, classes)."""
    intersection = table.diag()
    union = table.sum(0) + table.sum(1) - intersection
    return (intersection[union > 0].double() / union[union > 0]).mean().item()
