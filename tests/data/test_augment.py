"""Crops against torchvision's, one image at a time; boxes against their distribution."""

import math

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as tv

from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.augment import Boxes, central_boxes, random_boxes, resample, source_margin
from maskbench.data.splits import Images

MEAN, STD = torch.zeros(3), torch.ones(3)


def some_images(count: int, rows: int, cols: int, stretch: float = 1.0) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, rows, cols), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.zeros(count, dtype=torch.long), torch.full((count,), stretch))


def drawn(count: int, seed: int = 0) -> CounterRNG:
    return CounterRNG(sample_keys(torch.arange(count), seed, "augment", 0))


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (64, 64)])
def test_resample_is_torchvisions_resized_crop(size: tuple[int, int]) -> None:
    images = some_images(40, 48, 56)
    boxes = random_boxes(drawn(40), images, size, (0.2, 1.0))
    ours = resample(images, boxes, size, MEAN, STD)
    for i in range(40):
        box = [int(value[i]) for value in (boxes.top, boxes.left, boxes.height, boxes.width)]
        theirs = tv.resized_crop(images.pixels[i].float(), *box, list(size), antialias=True) / 255
        if boxes.flip[i]:
            theirs = tv.horizontal_flip(theirs)
        torch.testing.assert_close(ours[i], theirs, rtol=1e-4, atol=2e-5)
    assert 5 < int(boxes.flip.sum()) < 35


def test_whole_box_at_its_own_size_is_exact() -> None:
    images = some_images(3, 32, 32)
    ours = resample(images, central_boxes(images, (32, 32)), (32, 32), MEAN, STD)
    assert torch.equal((ours * 255).round().to(torch.uint8), images.pixels)


def test_normalisation() -> None:
    images, mean, std = some_images(3, 32, 32), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    boxes = central_boxes(images, (32, 32))
    expected = (images.pixels.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(resample(images, boxes, (32, 32), mean, std), expected, rtol=1e-4, atol=1e-5)


def test_boxes_follow_their_distribution() -> None:
    count, side = 20_000, 1000
    images = Images(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count), torch.ones(count))
    images = Images(images.pixels.expand(-1, -1, side, side), images.labels, images.stretch)
    boxes = random_boxes(drawn(count), images, (32, 32), (0.2, 0.5))  # at most half: nearly every first box fits
    area = boxes.height * boxes.width / side**2
    aspect = (boxes.width / boxes.height).log()
    assert stats.kstest(area.numpy(), stats.uniform(0.2, 0.3).cdf).pvalue > 1e-4
    bound = math.log(4 / 3)
    assert stats.kstest(aspect.numpy(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-4
    place = (boxes.top + 0.5) / (side - boxes.height + 1)
    assert stats.kstest(place.numpy(), "uniform").pvalue > 1e-4
    assert abs(int(boxes.flip.sum()) - count / 2) < 4 * math.sqrt(count / 4)


def test_boxes_stay_on_the_canvas() -> None:
    images = some_images(2000, 20, 60)
    boxes = random_boxes(drawn(2000), images, (32, 32), (0.2, 1.0))
    assert (boxes.top >= 0).all()
    assert (boxes.top + boxes.height <= 20).all()
    assert (boxes.left + boxes.width <= 60).all()
    assert (boxes.height >= 1).all()
    square = (boxes.height == 20) & (boxes.width == 20)  # nothing fitted: the central box
    assert 0 < int(square.sum()) < 1000


def test_stretch_is_undone() -> None:
    # A 100 x 50 original stored on a square canvas of 50 is half as tall there: stretch = (50 / 100) / 1.
    images = some_images(5, 50, 50, stretch=0.5)
    boxes = central_boxes(images, (32, 32))
    assert boxes.height.tolist() == [25] * 5
    assert boxes.width.tolist() == [50] * 5
    assert boxes.top.tolist() == [12] * 5


def test_a_sample_has_one_box_whatever_its_batch() -> None:
    images = some_images(16, 40, 40)
    whole = random_boxes(drawn(16), images, (32, 32), (0.2, 1.0))
    some = torch.tensor([9, 3])
    part = random_boxes(CounterRNG(sample_keys(some, 0, "augment", 0)), images.take(some), (32, 32), (0.2, 1.0))
    for field in ("top", "left", "height", "width", "flip"):
        assert torch.equal(getattr(whole, field)[some], getattr(part, field))
    pixels = resample(images, whole, (32, 32), MEAN, STD)
    alone = resample(images.take(some[:1]), _take(part, 0), (32, 32), MEAN, STD)
    torch.testing.assert_close(pixels[some[:1]], alone, rtol=0, atol=1e-6)


def _take(boxes: Boxes, row: int) -> Boxes:
    return Boxes(*(getattr(boxes, name)[row : row + 1] for name in ("top", "left", "height", "width", "flip")))


@pytest.mark.parametrize(("side", "wider"), [(224, 288), (64, 82), (32, 42)])
def test_margin_of_the_wider_crop(side: int, wider: int) -> None:
    assert source_margin((side, side), 288 / 224) == ((wider - side) // 2, (wider - side) // 2)
