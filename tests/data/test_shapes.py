"""The embedded data: deterministic, balanced, correlated with the class as stated, with true object masks."""

import math

import torch
from sklearn.neighbors import KNeighborsClassifier

from maskbench.data import shapes


def test_an_image_depends_on_its_number_alone() -> None:
    many, few = shapes.generate("train", 700, 32, 32, 3), shapes.generate("train", 30, 32, 32, 3)
    assert torch.equal(many.pixels[:30], few.pixels)
    assert torch.equal(many.objects[:30], few.objects)
    assert not torch.equal(few.pixels, shapes.generate("test", 30, 32, 32, 3).pixels)


def test_any_size_and_channels() -> None:
    for height, width, channels in ((16, 40, 1), (64, 48, 5)):
        images = shapes.generate("test", 20, height, width, channels)
        assert images.pixels.shape == (20, channels, height, width)
        assert images.objects.shape == (20, height, width)


def test_classes_are_balanced_and_objects_visible() -> None:
    images = shapes.generate("train", 1000, 32, 32, 3)
    assert torch.bincount(images.labels).tolist() == [100] * 10
    share = images.objects.float().mean((1, 2))
    assert float(share.min()) > 0.08
    assert float(share.max()) < 0.6


def test_objects_and_backgrounds_differ_in_brightness() -> None:
    images = shapes.generate("train", 500, 32, 32, 3)
    brightness = images.pixels.float().mean(1) / 255
    inside = (brightness * images.objects).sum((1, 2)) / images.objects.sum((1, 2))
    outside = (brightness * ~images.objects).sum((1, 2)) / (~images.objects).sum((1, 2))
    brighter = int((inside > outside).sum())
    assert abs(brighter - 250) < 4 * math.sqrt(500 / 4) + 50  # a coin toss, but for clutter
    assert float((inside - outside).abs().median()) > 0.1


def test_the_shape_gives_the_class_away() -> None:
    # Nearest mean mask: no learning, and far above what colour could give.
    train, test = shapes.generate("train", 2000, 32, 32, 3), shapes.generate("test", 500, 32, 32, 3)
    means = torch.stack([train.objects[train.labels == c].float().mean(0) for c in range(10)]).flatten(1)
    distance = torch.cdist(test.objects.float().flatten(1), means)
    assert float((distance.argmin(1) == test.labels).float().mean()) > 0.6


def test_colour_helps_and_does_not_suffice() -> None:
    def colours(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = shapes.generate(split, count, 32, 32, 3)
        pixels, objects = images.pixels.float() / 255, images.objects[:, None]
        inside = (pixels * objects).sum((2, 3)) / objects.sum((2, 3))
        outside = (pixels * ~objects).sum((2, 3)) / (~objects).sum((2, 3))
        return torch.cat([inside, outside], 1), images.labels

    known, labels = colours("train", 4000)
    asked, expected = colours("test", 2000)
    score = KNeighborsClassifier(30).fit(known, labels).score(asked, expected)
    # Chance is 0.1 with a standard deviation of 0.007; hues follow the class in one image in five.
    assert 0.13 < score < 0.35
