"""Linear segmentation: a linear classifier of patch tokens says where the object is and what it is."""

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
from maskbench.probes.linear import Decays, LinearClassifier

CHUNK = 100  # images whose classes are spread over pixels at a time: 11 classes at 224 x 224 take 211 MiB


@register("dense")
@dataclass(frozen=True, kw_only=True)
class Dense(Probe):
    """Linear segmentation: background, or the class of the object, pixel by pixel, from frozen patch tokens.

    The tokens after the last norm of clean central crops are classified as in `linear`, each patch with the shares of
    classes among its pixels as its label, on the first `images` training images of the stratified order, which bounds
    the memory. Logits are enlarged bilinearly to pixels, and the largest one is the prediction, as with the linear
    layer of DINOv2 (arXiv 2304.07193). The decay is chosen by the mean intersection over union on validation (ties: the
    largest); then it is refitted, with held-out images among the first ones. miou: one confusion matrix over all pixels
    of the split, mean over the classes that occur in labels or predictions. Masks are cropped and resized as the images
    are; a pixel at least half object is object. No augmentation.
    """

    images: Annotated[int, Field(ge=1)] = 2000
    decays: Decays = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # wider steps than linear's, because there are many tokens

    def incompatibility_reason(self, encoder: Encoder, splits: Splits) -> str | None:
        parts = [splits.train, splits.test, splits.validation]
        if any(isinstance(part, Split) and part.objects is None for part in parts):
            return f"dense needs object masks, which {splits.name} has not; leave it out of --probes"
        return None

    def __call__(self, subject: Subject) -> ProbeResult:
        splits, decays = subject.splits, sorted(self.decays, reverse=True)
        order = stratified_order(splits.train.labels.cpu())
        fit = order[torch.isin(order, splits.fit.cpu())]
        classifiers = self.fit_classifiers(subject, fit, decays)
        scores = [mean_iou(matrix) for matrix in confusion_matrices(subject, subject.validation_split, classifiers)]
        best = decays[scores.index(max(scores))]
        (matrix,) = confusion_matrices(subject, splits.test, self.fit_classifiers(subject, order, [best]))
        pixel_accuracy = (matrix.diag().sum().double() / matrix.sum()).item()
        metrics = {"dense/miou/patches": mean_iou(matrix), "dense/pixel-accuracy/patches": pixel_accuracy}
        return ProbeResult(metrics, chosen={"dense/decay/patches": best})

    def fit_classifiers(self, subject: Subject, order: Tensor, decays: list[float]) -> list[LinearClassifier]:
        """Fit a classifier of tokens for each decay, to the first training images of this order."""
        train, classes = subject.splits.train, len(subject.splits.classes) + 1
        images = train.take(order[: self.images].to(train.labels.device))
        batches = [
            (tokens.flatten(0, 1), class_shares(truth, subject.encoder.grid, classes).flatten(0, 1))
            for tokens, truth in iterate_tokens_and_classes(subject, images)
        ]
        tokens, shares = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return LinearClassifier.fit(tokens, shares, classes, decays)


def iterate_tokens_and_classes(subject: Subject, images: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield patch tokens (B, N, D) float32 and pixel classes (B, H, W) int64: 0, or 1 + label on the object."""
    encoder = subject.encoder
    size, device = encoder.grid.image_size, encoder.mask_token.device
    for index in torch.arange(len(images), device=images.labels.device).split(CHUNK):
        chunk = images.take(index).to(device)
        objects = object_shares(chunk, central_boxes(chunk, size), size) >= 0.5
        tokens = subject.extract(chunk, lambda batch: {"patches": encoder(batch).patches.float()})["patches"]
        yield tokens, objects * (1 + chunk.labels[:, None, None])


def class_shares(truth: Tensor, grid: Grid, classes: int) -> Tensor:
    """(B, N, classes) float32: the share of each class among each patch's pixels, of classes (B, H, W) int64."""
    pixels = grid.patchify(truth[:, None])
    counts = torch.zeros(*pixels.shape[:2], classes, device=pixels.device)
    return counts.scatter_add_(2, pixels, torch.ones_like(pixels, dtype=counts.dtype)) / pixels.shape[2]


def predict_pixels(classifier: LinearClassifier, tokens: Tensor, grid: Grid) -> Tensor:
    """(B, H, W) int64 predicted classes of the pixels, from patch tokens (B, N, D)."""
    logits = classifier.logits(tokens).transpose(1, 2).unflatten(2, (grid.rows, grid.cols))
    return F.interpolate(logits, grid.image_size, mode="bilinear", align_corners=False).argmax(1)


def confusion_matrices(subject: Subject, images: Split, classifiers: list[LinearClassifier]) -> list[Tensor]:
    """For each classifier (classes, classes) int64: the pixels by true class, in rows, and predicted class."""
    grid, classes = subject.encoder.grid, len(subject.splits.classes) + 1
    matrices = [torch.zeros(classes, classes, dtype=torch.int64) for _ in classifiers]
    for tokens, truth in iterate_tokens_and_classes(subject, images):
        for matrix, classifier in zip(matrices, classifiers, strict=True):
            pairs = truth * classes + predict_pixels(classifier, tokens, grid)
            matrix += torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes).cpu()
    return matrices


def mean_iou(matrix: Tensor) -> float:
    """Mean intersection over union, in [0, 1], of the classes that occur in a confusion matrix (classes, classes)."""
    intersection = matrix.diag()
    union = matrix.sum(0) + matrix.sum(1) - intersection
    return (intersection[union > 0].double() / union[union > 0]).mean().item()
