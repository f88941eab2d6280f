"""Corruptions against loops, colorsys, scipy and Pillow, with the same draws where there is chance."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data import shapes
from maskbench.data.corruptions import CORRUPTIONS, corrupt

NOISY = ("gaussian-noise", "shot-noise", "impulse-noise")
COUNT = 6
NUMBERS = torch.arange(COUNT)


def pictures(height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    """(COUNT, channels, height, width) uint8, with some black and some white among their pixels."""
    pixels = shapes.generate("test", COUNT, height, width, channels).pixels
    pixels[:, :, 0, 0], pixels[:, :, 0, 1] = 0, 255
    return pixels


def uniform(number: int, name: str, *shape: int) -> np.ndarray:
    """What the image of this number draws."""
    return CounterRNG(sample_keys(torch.tensor([number]), 0, "robust", name)).uniform(*shape)[0].double().numpy()


def close(found: Tensor, exact: np.ndarray) -> None:
    """uint8 levels that are the nearest to `exact` pixels in [0, 1], give or take float32."""
    assert np.abs(found.double().numpy() - 255 * np.clip(exact, 0, 1)).max() < 0.501


@pytest.mark.parametrize("severity", [1, 5])
def test_gaussian_noise_written_out(severity: int) -> None:
    pixels = pictures()
    found = corrupt(pixels, "gaussian-noise", severity, NUMBERS)
    for i in range(COUNT):
        noise = (
            CounterRNG(sample_keys(torch.tensor([i]), 0, "robust", "gaussian-noise"))
            .normal(3, 32, 32)[0]
            .double()
            .numpy()
        )
        close(found[i], pixels[i].double().numpy() / 255 + (0.04, 0, 0, 0, 0.10)[severity - 1] * noise)


@pytest.mark.parametrize(("severity", "std"), [*enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1)])
def test_gaussian_noise_is_as_strong_as_it_says(severity: int, std: float) -> None:
    grey = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    noise = (corrupt(grey, "gaussian-noise", severity, torch.arange(200)).double() - 128) / 255
    # Rounding to levels adds a variance of 1/12 level; 0 and 255 are 5 sd away. Of n = 614,400 values the mean has a sd
    # of std / sqrt(n), the sd one of std / sqrt(2 n): 5 of them.
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 * std / math.sqrt(n)
    expected = math.sqrt(std**2 + 1 / (12 * 255**2))
    assert abs(float(noise.std()) - expected) < 5 * std / math.sqrt(2 * n)


@pytest.mark.parametrize(("severity", "photons"), [*enumerate((500, 250, 100, 75, 50), 1)])
def test_shot_noise_is_scipys_quantile_of_the_same_draw(severity: int, photons: int) -> None:
    pixels = pictures(16, 16)
    pixels[0, 0] = torch.arange(256).view(16, 16)  # every level
    found = corrupt(pixels, "shot-noise", severity, NUMBERS)
    for i in range(COUNT):
        drawn = uniform(i, "shot-noise", 3, 16, 16)
        expected = photons * pixels[i].double().numpy() / 255
        # The quantile of 0 is -1 with scipy: not below it is meant.
        counts = np.maximum(stats.poisson.ppf(drawn, expected), 0)
        close(found[i], counts / photons)
    assert (found[:, :, 0, 0][1:] == 0).all(), "no photons, no noise"


def test_impulse_noise_written_out() -> None:
    pixels = pictures()
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1):
        found = corrupt(pixels, "impulse-noise", severity, NUMBERS)
        for i in range(COUNT):
            drawn = uniform(i, "impulse-noise", 3, 32, 32)
            expected = pixels[i].numpy().copy()
            for place in np.ndindex(*expected.shape):
                if drawn[place] < np.float32(share / 2):
                    expected[place] = 0
                elif drawn[place] >= np.float32(1 - share / 2):
                    expected[place] = 255
            assert (found[i].numpy() == expected).all()


def test_impulse_noise_hits_its_share_half_black_half_white() -> None:
    grey = torch.full((200, 3, 32, 32), 128, dtype=torch.uint8)
    found = corrupt(grey, "impulse-noise", 5, torch.arange(200))
    # A share of 0.035 of n = 614,400 values has a sd of sqrt(0.035 * 0.965 / n) = 0.00023: 5 of them.
    for level in (0, 255):
        assert abs(float((found == level).double().mean()) - 0.035) < 0.0012
    assert ((found == 0) | (found == 128) | (found == 255)).all()


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (16, 24)])
def test_blur_is_scipys(size: tuple[int, int]) -> None:
    pixels = pictures(*size)
    for severity, sigma in enumerate((0.4, 0.6, 0.7, 0.8, 1.0), 1):
        found = corrupt(pixels, "gaussian-blur", severity, NUMBERS)
        widths = tuple(sigma * side / 32 for side in size)
        for i in range(COUNT):
            for channel in range(3):
                given = {"sigma": widths, "mode": "constant", "radius": size}
                inside = ndimage.gaussian_filter(np.ones(size), **given)
                expected = ndimage.gaussian_filter(pixels[i, channel].double().numpy() / 255, **given) / inside
                close(found[i, channel], expected)
                theirs = ndimage.gaussian_filter(pixels[i, channel].double().numpy() / 255, widths, mode="nearest")
                rim = math.ceil(
                    4 * max(widths)
                )  # away from the border the data set's blur is the same; it ends at 4 sd
                assert np.abs(found[i, channel].numpy() - theirs * 255)[rim:-rim, rim:-rim].max() <= 0.6


@pytest.mark.parametrize(("severity", "added"), [*enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1)])
def test_brightness_raises_the_value_of_hsv(severity: int, added: float) -> None:
    pixels = pictures(8, 8)
    found = corrupt(pixels, "brightness", severity, NUMBERS)
    expected = np.zeros((COUNT, 3, 8, 8))
    for i, row, col in np.ndindex(COUNT, 8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[i, :, row, col].double() / 255).tolist())
        expected[i, :, row, col] = colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))
    close(found, expected)
    assert (found[:, :, 0, 0] == torch.tensor(added * 255).round()).all(), "black becomes grey"


def test_contrast_written_out() -> None:
    pixels = pictures(16, 24)
    for severity, factor in enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1):
        found = corrupt(pixels, "contrast", severity, NUMBERS)
        for i in range(COUNT):
            for channel in range(3):
                given = pixels[i, channel].double().numpy() / 255
                close(found[i, channel], given.mean() + factor * (given - given.mean()))


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (16, 48)])
def test_pixelation_is_pillows_two_box_filters(size: tuple[int, int]) -> None:
    pixels = pictures(*size)[:2]
    for severity, share in enumerate((0.95, 0.9, 0.85, 0.75, 0.65), 1):
        found = corrupt(pixels, "pixelate", severity, NUMBERS[:2])
        for i in range(2):
            image = Image.fromarray(pixels[i].permute(1, 2, 0).numpy())
            small = image.resize((int(size[1] * share), int(size[0] * share)), Image.Resampling.BOX)
            expected = np.asarray(small.resize(size[::-1], Image.Resampling.BOX)).transpose(2, 0, 1)
            # Pillow rounds after each of two axes: at most half a level each, one of them averaged.
            assert np.abs(found[i].double().numpy() - expected).max() <= 1
            values = {tuple(value) for value in found[i].flatten(1).T.tolist()}
            assert len(values) <= small.width * small.height


@pytest.mark.parametrize("name", CORRUPTIONS)
class TestEveryCorruption:
    def test_a_higher_severity_changes_more(self, name: str) -> None:
        pixels = pictures()
        found = [corrupt(pixels, name, severity, NUMBERS).double() for severity in (1, 2, 3, 4, 5)]
        distances = [float((one - pixels).square().mean()) for one in found]
        assert distances[0] > 0 and distances == sorted(set(distances))

    def test_every_image_is_changed_by_itself(self, name: str) -> None:
        pixels = pictures(24, 16)
        whole = corrupt(pixels, name, 3, NUMBERS)
        assert whole.dtype == torch.uint8 and whole.shape == pixels.shape
        assert torch.equal(whole, corrupt(pixels, name, 3, NUMBERS))
        for index in (torch.tensor([4]), torch.tensor([5, 0, 2])):
            alone = corrupt(pixels[index], name, 3, NUMBERS[index]).int()
            # A logarithm may differ in its last bit with the length of the batch, and a level that is near a half.
            assert (alone - whole[index]).abs().max() <= 1 and (alone != whole[index]).float().mean() < 1e-3
        other = corrupt(pixels, name, 3, NUMBERS + 1000)
        assert torch.equal(whole, other) == (name not in NOISY)

    @pytest.mark.parametrize("channels", [1, 4])
    def test_any_number_of_channels(self, name: str, channels: int) -> None:
        pixels = pictures(channels=channels)
        assert corrupt(pixels, name, 5, NUMBERS).shape == pixels.shape


def test_impulses_stay_where_they_are_as_severity_rises() -> None:
    grey = torch.full((20, 3, 32, 32), 128, dtype=torch.uint8)
    before = corrupt(grey, "impulse-noise", 1, torch.arange(20))
    for severity in (2, 3, 4, 5):
        after = corrupt(grey, "impulse-noise", severity, torch.arange(20))
        hit = before != 128
        assert torch.equal(after[hit], before[hit])
        before = after
