"""Robustness: accuracy on images that are harder than those the classifier was fitted to."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.augment import central_boxes, object_shares, resample
from maskbench.data.corruptions import CORRUPTIONS, corrupt
from maskbench.data.splits import Images
from maskbench.models.encoder import Encoder
from maskbench.probe import BatchReader, Probe, ProbeResult, Subject, accuracy, register
from maskbench.probes.linear import Linear, LinearClassifier

CHUNK = 200  # images changed at a time: noise for 200 of 224 x 224 takes up to 1 GiB


@register("robust")
@dataclass(frozen=True, kw_only=True)
class Robust(Probe):
    """The classifier of `linear`, fitted to clean images, on changed test images: compare with linear/top1.

    dropped-P: P percent of the patches, drawn for each image and nested over P, are never encoded. After Naseer et al.
    (arXiv 2105.10497), who blacken the pixels; here the sequence is shorter. At least one patch stays.

    swapped, where the data know the object: its pixels on a test image of another class, all of them equally likely.
    After MIXED-RAND of Xiao et al. (arXiv 2006.09994), with one difference: the other image's own object stays where it
    is not covered, since painting it over would leave its outline. So this is the accuracy on a misleading background
    with remains of a misleading object. Test labels choose the pairs and nothing else.

    The seven corruptions of maskbench.data.corruptions, and their mean as corrupted: on the central crop at the
    encoder's size, mean over `severities`. What is drawn for an image depends on its number alone, so all encoders of
    one patch size get the same images.
    """

    dropped: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 3, 5)

    def __call__(self, subject: Subject) -> ProbeResult:
        fits = {pooling: Linear().fit(features) for pooling, features in subject.features().items()}
        predictions = self.predict(subject, {pooling: classifier for pooling, (_, classifier) in fits.items()})
        labels = subject.splits.test.labels
        result = ProbeResult()
        for pooling, (decay, _) in fits.items():
            by_change = predictions[pooling]
            top1 = {change: accuracy(each, labels.expand_as(each)) for change, each in by_change.items()}
            top1["corrupted"] = sum(top1[name] for name in CORRUPTIONS) / len(CORRUPTIONS)
            result.metrics.update({f"robust/{change}/top1/{pooling}": value for change, value in top1.items()})
            result.predictions.update(
                {f"robust/{change}/{pooling}": each.squeeze(0) for change, each in by_change.items()}
            )
            result.chosen[f"robust/decay/{pooling}"] = decay
        return result

    def predict(self, subject: Subject, classifiers: dict[str, LinearClassifier]) -> dict[str, dict[str, Tensor]]:
        """Predict all test images under every change: by pooling and change, (severities, t) int64."""
        labels = subject.splits.test.labels
        chunks: defaultdict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        for numbers in torch.arange(len(labels), device=labels.device).split(CHUNK):
            for change, severities in self.extract_changed(subject, numbers):
                for pooling, classifier in classifiers.items():
                    predicted = torch.stack([classifier.predict(features[pooling]) for features in severities])
                    chunks[pooling][change].append(predicted)
        return {
            pooling: {change: torch.cat(each, 1).to(labels.device) for change, each in by_change.items()}
            for pooling, by_change in chunks.items()
        }

    def extract_changed(self, subject: Subject, numbers: Tensor) -> Iterator[tuple[str, list[dict[str, Tensor]]]]:
        """Yield each change's name, and the features of these test images under it, at each severity.

        numbers: (B,) int64, of the images in test.
        """
        encoder, test = subject.encoder, subject.splits.test
        grid, device = encoder.grid, encoder.mask_token.device
        images = test.take(numbers).to(device)
        for percent in self.dropped:
            read = read_kept_patches(encoder, patches_kept(numbers, grid, percent))
            yield f"dropped-{percent}", [subject.extract(images, read, distribute=False)]
        seen = crop_as_seen(images, grid.image_size)
        if test.objects is not None and len(test.labels.unique()) > 1:
            other = crop_as_seen(test.take(partners_of_other_class(test.labels)[numbers]).to(device), grid.image_size)
            yield "swapped", [subject.extract(swap_backgrounds(seen, other))]
        for name in CORRUPTIONS:
            pixels = (corrupt(seen.pixels, name, severity, numbers.to(device)) for severity in self.severities)
            yield name, [subject.extract(replace(seen, pixels=each)) for each in pixels]


def patches_kept(numbers: Tensor, grid: Grid, percent: int) -> Tensor:
    """(B, N) bool: the patches that stay when `percent` of them are dropped, fewer of the same for a higher one."""
    order = CounterRNG(sample_keys(numbers, 0, "robust", "dropped")).bits(grid.size).argsort(1)
    dropped = order[:, : min(grid.count(percent / 100), grid.size - 1)]
    return torch.ones_like(order, dtype=torch.bool).scatter_(1, dropped, False)


def read_kept_patches(encoder: Encoder, present: Tensor) -> BatchReader:
    """A reader of features that encodes only the patches of `present` (n, N) bool.

    It must get the images in the order of these rows, each of which has as many True entries.
    """
    rows, length = iter(present.to(encoder.mask_token.device)), int(present[0].sum())

    def read(images: Tensor) -> dict[str, Tensor]:
        return encoder.pool(encoder(images, torch.stack([next(rows) for _ in images]), None, length))

    return read


def crop_as_seen(images: Images, size: tuple[int, int]) -> Images:
    """The central crops, as the encoder sees them, as images with levels of 0 to 255 again; objects likewise."""
    boxes, unit = central_boxes(images, size), torch.ones(images.pixels.shape[1], device=images.pixels.device)
    pixels = (resample(images, boxes, size, 0 * unit, unit) * 255).round().byte()
    objects = None if images.objects is None else object_shares(images, boxes, size) >= 0.5
    return Images(pixels, images.labels, torch.ones_like(images.stretch), objects)


def swap_backgrounds(images: Images, others: Images) -> Images:
    """Put the objects of `images`, where they are, on `others`."""
    assert images.objects is not None, "called only where the data know the object"
    return replace(images, pixels=torch.where(images.objects[:, None], images.pixels, others.pixels))


def partners_of_other_class(labels: Tensor) -> Tensor:
    """(n,) int64: for each image the number of one with another label, all equally likely, by a fixed draw.

    A rank is drawn among the images of other classes, in order of class; ranks from the own class on skip that class.

        labels          [0, 1, 1]      in order of class: image 0, image 1, image 2
        of image 0      rank 0 or 1    own class at 0, so rank + 1: image 1 or 2
        of image 1      rank 0         below the own class, at 1: image 0

    Test: test_partners_are_of_other_classes_all_equally_likely.
    """
    by_class, sizes = labels.argsort(stable=True), torch.bincount(labels)
    own_size, own_start = sizes[labels], (sizes.cumsum(0) - sizes)[labels]
    rng = CounterRNG(sample_keys(torch.arange(len(labels), device=labels.device), 0, "robust", "swapped"))
    rank = rng.integers((len(labels) - own_size)[:, None], 1)[:, 0]
    return by_class[torch.where(rank < own_start, rank, rank + own_size)]
