"""Accuracy on images that are harder than those the classifier was fitted to."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.rng import Draws, keys
from maskbench.data.augment import central_boxes, object_shares, resample
from maskbench.data.corruptions import CORRUPTIONS, corrupted
from maskbench.data.splits import Images
from maskbench.models.encoder import Encoder
from maskbench.probe import Probe, ProbeResult, Read, Subject, accuracy, register
from maskbench.probes.linear import Linear

CHUNK = 200  # images changed at a time: noise for 200 of 224 x 224 takes up to 1 GiB


@register("robust")
@dataclass(frozen=True, kw_only=True)
class Robust(Probe):
    """The classifier of `linear`, fitted to clean images, asked about changed test images: compare with linear/top1.

    dropped-P: P percent of the patches, drawn for each image and nested over P, are never encoded, as Naseer et al.
    (arXiv 2105.10497) drop them, but for this: they blacken pixels, here the sequence is shorter. At least one stays.

    swapped, where the data know the object: its pixels on a test image of another class, all of them equally likely.
    After MIXED-RAND of Xiao et al. (arXiv 2006.09994), but for this: the other image's own object stays where it is not
    covered, since painting it over would leave its outline. So this is the accuracy beside a misleading background with
    remains of a misleading object. Test labels choose the pairs and nothing else.

    The seven corruptions of maskbench.data.corruptions, and their mean as corrupted: on the central crop at the
    encoder's size, mean over `severities`. What is drawn for an image depends on its number alone, so all encoders of
    one patch size are asked with the same images.
    """

    dropped: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 3, 5)

    def __call__(self, subject: Subject) -> ProbeResult:
        fitted = {pooling: Linear().fitted(given) for pooling, given in subject.features().items()}
        labels = subject.splits.test.labels
        answers: defaultdict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for numbers in torch.arange(len(labels), device=labels.device).split(CHUNK):
            for change, asked in self.changed(subject, numbers):
                for pooling, (_, classifier) in fitted.items():
                    predicted = torch.stack([classifier.predict(features[pooling]) for features in asked])
                    answers[pooling][change].append(predicted)
        result = ProbeResult()
        for pooling, (decay, _) in fitted.items():
            predictions = {change: torch.cat(parts, 1).to(labels.device) for change, parts in answers[pooling].items()}
            found = {change: accuracy(given, labels.expand_as(given)) for change, given in predictions.items()}
            found["corrupted"] = sum(found[name] for name in CORRUPTIONS) / len(CORRUPTIONS)
            result.metrics.update({f"robust/{change}/top1/{pooling}": value for change, value in found.items()})
            result.predictions.update(
                {f"robust/{change}/{pooling}": given.squeeze(0) for change, given in predictions.items()}
            )
            result.chosen[f"robust/decay/{pooling}"] = decay
        return result

    def changed(self, subject: Subject, numbers: Tensor) -> Iterator[tuple[str, list[dict[str, Tensor]]]]:
        """Each change's name, and the features of the test images of these numbers under it, at each severity."""
        encoder, test = subject.encoder, subject.splits.test
        grid, device = encoder.grid, encoder.mask_token.device
        images = test.take(numbers).to(device)
        for percent in self.dropped:
            read = without(encoder, left(numbers, grid, percent))
            yield f"dropped-{percent}", [subject.extract(images, read, shared=False)]
        seen = as_seen(images, grid.image_size)
        if test.objects is not None and len(test.labels.unique()) > 1:
            other = as_seen(test.take(partners(test.labels)[numbers]).to(device), grid.image_size)
            yield "swapped", [subject.extract(swapped(seen, other))]
        for name in CORRUPTIONS:
            pixels = (corrupted(seen.pixels, name, severity, numbers.to(device)) for severity in self.severities)
            yield name, [subject.extract(replace(seen, pixels=each)) for each in pixels]


def left(numbers: Tensor, grid: Grid, percent: int) -> Tensor:
    """(B, N) bool: the patches that stay when `percent` of them are dropped, fewer of the same for a higher one."""
    order = Draws(keys(numbers, 0, "robust", "dropped")).bits(grid.size).argsort(1)
    dropped = order[:, : min(grid.count(percent / 100), grid.size - 1)]
    return torch.ones_like(order, dtype=torch.bool).scatter_(1, dropped, False)


def without(encoder: Encoder, present: Tensor) -> Read:
    """Features of images, read in the order of `present` (n, N), which are True equally often, from those patches."""
    rows, length = iter(present.to(encoder.mask_token.device)), int(present[0].sum())

    def read(images: Tensor) -> dict[str, Tensor]:
        return encoder.pool(encoder(images, torch.stack([next(rows) for _ in images]), None, length))

    return read


def as_seen(images: Images, size: tuple[int, int]) -> Images:
    """The central crops, as the encoder sees them, as images with levels of 0 to 255 again; objects likewise."""
    boxes, unit = central_boxes(images, size), torch.ones(images.pixels.shape[1], device=images.pixels.device)
    pixels = (resample(images, boxes, size, 0 * unit, unit) * 255).round().byte()
    objects = None if images.objects is None else object_shares(images, boxes, size) >= 0.5
    return Images(pixels, images.labels, torch.ones_like(images.stretch), objects)


def swapped(images: Images, others: Images) -> Images:
    """The objects of `images` where they are, on `others`."""
    assert images.objects is not None, "asked only where the data know the object"
    return replace(images, pixels=torch.where(images.objects[:, None], images.pixels, others.pixels))


def partners(labels: Tensor) -> Tensor:
    """(n,) int64: for each image the number of one with another label, all equally likely, by a fixed draw."""
    by_class, sizes = labels.argsort(stable=True), torch.bincount(labels)
    own, first = sizes[labels], (sizes.cumsum(0) - sizes)[labels]
    draws = Draws(keys(torch.arange(len(labels), device=labels.device), 0, "robust", "swapped"))
    place = draws.integers((len(labels) - own)[:, None], 1)[:, 0]
    return by_class[torch.where(place < first, place, place + own)]
