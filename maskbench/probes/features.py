"""What can be said of features without any label."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from maskbench.core.rng import Draws, keys
from maskbench.data.augment import central_boxes, object_shares, random_boxes, resample
from maskbench.data.splits import Images, Split
from maskbench.probe import Probe, ProbeResult, Subject, register
from maskbench.training.collapse import effective_rank

Share = Annotated[float, Field(gt=0, le=1)]


@register("features")
@dataclass(frozen=True, kw_only=True)
class FeatureStatistics(Probe):
    """How many dimensions the features use, how evenly they spread, how little they mind the crop, where they look.

    Over `images` of test, the same for all encoders; no label is read. rank: exp of the entropy of the singular values
    of centred features (maskbench.training.collapse). On features of unit length, after Wang and Isola (arXiv
    2005.10242):
    uniformity, the logarithm of the mean over pairs of exp(-2 |x - y|^2), lower is more even; alignment, the mean
    |x - y|^2 between two random crops (area `scale`, flips) of an image, lower is more alike, read beside uniformity:
    both are 0 in a collapsed encoder. attention-iou, where the model has a class token and the data know the object:
    the patches that hold `mass` of the class token's attention in the last block, mean over heads, against those that
    are at least half object, intersection over union, mean over images, as DINO (arXiv 2104.14294) asks of single
    heads.
    """

    version: ClassVar[int] = 2  # 1 took the first ones of test

    images: Annotated[int, Field(ge=2)] = 5000
    scale: tuple[Share, Share] = (0.2, 1.0)
    mass: Share = 0.6

    def __call__(self, subject: Subject) -> ProbeResult:
        test = subject.splits.test
        index = torch.arange(len(test), device=test.labels.device)
        index = keys(index, 0, "probe", "features").argsort()[: self.images]  # folders come class by class
        images = test.part(index)
        one, two = (subject.extract(self.crops(subject, images, number)) for number in range(2))
        result = ProbeResult()
        for pooling, given in subject.features().items():
            values = given.test[index]
            result.metrics[f"features/rank/{pooling}"] = effective_rank(values)
            result.metrics[f"features/uniformity/{pooling}"] = uniformity(values)
            result.metrics[f"features/alignment/{pooling}"] = alignment(one[pooling], two[pooling])
        if isinstance(images, Images) and images.objects is not None and subject.encoder.vit.cls_token is not None:
            result.metrics["features/attention-iou/cls"] = self.attention_iou(subject, images)
        return result

    def crops(self, subject: Subject, images: Split, number: int) -> Images:
        """Random crops of the images at the encoder's size, the same for every encoder."""
        size, pixels = subject.encoder.grid.image_size, []
        unit = torch.ones_like(subject.splits.std)
        for index in torch.arange(len(images), device=images.labels.device).split(1000):
            part = images.take(index)
            boxes = random_boxes(Draws(keys(index, number, "probe", "features")), part, size, self.scale)
            pixels.append((resample(part, boxes, size, 0 * unit, unit) * 255).round().clamp(0, 255).byte())
        return Images(torch.cat(pixels), images.labels, torch.ones(len(images), device=images.labels.device))

    def attention_iou(self, subject: Subject, images: Images) -> float:
        """See the class."""
        patch, size = subject.encoder.grid.patch, subject.encoder.grid.image_size
        attention = subject.extract(images, lambda given: {"cls": subject.encoder.cls_attention(given)})["cls"]
        shares, places = attention.sort(1, descending=True)
        before = shares.cumsum(1) - shares  # what the patches that are looked at more hold
        looked_at = torch.zeros_like(attention, dtype=torch.bool)
        looked_at.scatter_(1, places, before < self.mass * attention.sum(1, keepdim=True))
        objects = F.avg_pool2d(object_shares(images, central_boxes(images, size), size), patch).flatten(1) >= 0.5
        objects = objects.to(looked_at.device)
        return ((looked_at & objects).sum(1) / (looked_at | objects).sum(1)).double().mean().item()


def uniformity(features: Tensor, chunk: int = 1000) -> float:
    """log of the mean of exp(-2 |x - y|^2) over all pairs of different rows of `features` (n, D), at unit length."""
    unit, total = F.normalize(features, dim=1), 0.0
    for part in unit.split(chunk):
        total += (4 * (part @ unit.T - 1)).exp().sum(dtype=torch.float64).item()  # |x - y|^2 = 2 - 2 x.y
    count = len(unit)
    return float(torch.tensor((total - count) / (count * (count - 1)), dtype=torch.float64).log())


def alignment(one: Tensor, two: Tensor) -> float:
    """Mean squared distance between the rows of `one` and `two` (n, D), at unit length; in [0, 4]."""
    return (F.normalize(one, dim=1) - F.normalize(two, dim=1)).square().sum(1).double().mean().item()
