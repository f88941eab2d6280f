"""Statistics of features that need no label."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.augment import central_boxes, object_shares, random_boxes, resample
from maskbench.data.splits import Images, Split
from maskbench.probe import Probe, ProbeResult, Subject, register
from maskbench.training.collapse import effective_rank

Share = Annotated[float, Field(gt=0, le=1)]


@register("features")
@dataclass(frozen=True, kw_only=True)
class FeatureStatistics(Probe):
    """How many dimensions the features use, how evenly they spread, how little crops change them, where they look.

    Over `images` of test, the same for all encoders; no label is read. rank: exp of the entropy of the singular values
    of centred features (maskbench.training.collapse). On features of unit length, after Wang and Isola (arXiv
    2005.10242): uniformity, the logarithm of the mean over pairs of exp(-2 |x - y|^2), lower is more even; alignment,
    the mean |x - y|^2 between two random crops (area `scale`, flips) of an image, lower is more alike, read beside
    uniformity: both are 0 in a collapsed encoder. attention-iou, where the model has a class token and the data know
    the object: the patches that hold `mass` of the class token's attention in the last block, mean over heads, against
    those that are at least half object, intersection over union, mean over images, as DINO (arXiv 2104.14294) measures
    for single heads.
    """

    version: ClassVar[int] = 2  # 1 took the first images of test
    needs_labels: ClassVar[bool] = False

    images: Annotated[int, Field(ge=2)] = 5000
    scale: tuple[Share, Share] = (0.2, 1.0)
    mass: Share = 0.6

    def __call__(self, subject: Subject) -> ProbeResult:
        test = subject.splits.test
        index = torch.arange(len(test), device=test.labels.device)
        index = sample_keys(index, 0, "probe", "features").argsort()[: self.images]  # folders come class by class
        images = test.subset(index)
        first, second = (subject.extract(self.random_crops(subject, images, number)) for number in range(2))
        result = ProbeResult()
        for pooling, features in subject.features().items():
            values = features.test[index]
            result.metrics[f"features/rank/{pooling}"] = effective_rank(values)
            result.metrics[f"features/uniformity/{pooling}"] = uniformity(values)
            result.metrics[f"features/alignment/{pooling}"] = alignment(first[pooling], second[pooling])
        if isinstance(images, Images) and images.objects is not None and subject.encoder.vit.cls_token is not None:
            result.metrics["features/attention-iou/cls"] = self.attention_iou(subject, images)
        return result

    def random_crops(self, subject: Subject, images: Split, number: int) -> Images:
        """Crops of the images at the encoder's size, the same for every encoder. number: 0 or 1, which of the two."""
        size, pixels = subject.encoder.grid.image_size, []
        unit = torch.ones_like(subject.splits.std)
        for index in torch.arange(len(images), device=images.labels.device).split(1000):
            part = images.take(index)
            boxes = random_boxes(CounterRNG(sample_keys(index, number, "probe", "features")), part, size, self.scale)
            pixels.append((resample(part, boxes, size, 0 * unit, unit) * 255).round().clamp(0, 255).byte())
        return Images(torch.cat(pixels), images.labels, torch.ones(len(images), device=images.labels.device))

    def attention_iou(self, subject: Subject, images: Images) -> float:
        """Intersection over union of attended patches and object patches, mean over images."""
        patch, size = subject.encoder.grid.patch, subject.encoder.grid.image_size
        attention = subject.extract(images, lambda batch: {"cls": subject.encoder.cls_attention(batch)})["cls"]
        shares, order = attention.sort(1, descending=True)
        before = shares.cumsum(1) - shares  # attention of the patches that get more of it
        attended = torch.zeros_like(attention, dtype=torch.bool)
        attended.scatter_(1, order, before < self.mass * attention.sum(1, keepdim=True))
        objects = F.avg_pool2d(object_shares(images, central_boxes(images, size), size), patch).flatten(1) >= 0.5
        objects = objects.to(attended.device)
        return ((attended & objects).sum(1) / (attended | objects).sum(1)).double().mean().item()


def uniformity(features: Tensor, chunk: int = 1000) -> float:
    """log of the mean of exp(-2 |x - y|^2) over all pairs of different rows of `features` (n, D), at unit length."""
    unit, total = F.normalize(features, dim=1), 0.0
    for rows in unit.split(chunk):
        total += (4 * (rows @ unit.T - 1)).exp().sum(dtype=torch.float64).item()  # |x - y|^2 = 2 - 2 x.y
    count = len(unit)
    return float(torch.tensor((total - count) / (count * (count - 1)), dtype=torch.float64).log())


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance between the rows of `first` and `second` (n, D), at unit length; in [0, 4]."""
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1).double().mean().item()
