"""Colour changes against torchvision's and scipy's, one change at a time, and their draws against their chances."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.color_jitter import LUMINANCE, YIQ, ColorJitter, blur_images, hue_saturation_matrix, jitter_colors
from maskbench.errors import UsageError
from maskbench.objective import REGISTRY, Recipe
from maskbench.runs.plan import make_plan
from maskbench.training import crops
from tests.helpers import tiny_subject
from tests.helpers.tiny_run import tiny_config

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
OFF = {"jitter": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grayscale": 0.0}
# torchvision's luminance has 0.2989 for red where ours has 0.299: at most 1e-4 of a pixel in [0, 1], times a contrast.
CLOSE = {"rtol": 0.0, "atol": 3e-4}


def draws(count: int, first: int = 0) -> CounterRNG:
    return CounterRNG(sample_keys(torch.arange(first, first + count), 7, "augment", 3))


def pictures(count: int, rows: int = 6, cols: int = 8, low: float = 0.3, high: float = 0.6) -> Tensor:
    """Pixels between `low` and `high`, by default so far from 0 and 1 that no change here clips them."""
    generator = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(count, 3, rows, cols, generator=generator)


def changed(pixels: Tensor, given: CounterRNG | None = None, **chances: float) -> Tensor:
    """Pixels in [0, 1] after nothing but the given changes."""
    images = tv.normalize(pixels, MEAN.tolist(), STD.tolist())
    made = jitter_colors(images, ColorJitter(**{**OFF, **chances}), given or draws(len(pixels)), MEAN, STD)
    return made * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)


def luminance(pixels: Tensor) -> Tensor:
    """(B, H, W)"""
    red, green, blue = pixels.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def colourfulness(pixels: Tensor) -> Tensor:
    """(B,) distance from the grey image of the same luminance."""
    return (pixels - luminance(pixels)[:, None]).flatten(1).norm(dim=1)


def test_brightness_is_torchvisions() -> None:
    before = pictures(500)
    after = changed(before, jitter=1.0, brightness=0.4)
    factors = after.mean((1, 2, 3)) / before.mean((1, 2, 3))
    for i in range(500):
        torch.testing.assert_close(after[i], tv.adjust_brightness(before[i], float(factors[i])), rtol=0, atol=1e-5)
    assert stats.kstest(factors.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 1e-4


def test_contrast_is_torchvisions() -> None:
    before = pictures(500)
    after = changed(before, jitter=1.0, contrast=0.4)
    factors = after.std((1, 2, 3)) / before.std((1, 2, 3))
    for i in range(500):
        torch.testing.assert_close(after[i], tv.adjust_contrast(before[i], float(factors[i])), **CLOSE)
    assert stats.kstest(factors.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 1e-4


def test_saturation_is_torchvisions() -> None:
    before = pictures(500)
    after = changed(before, jitter=1.0, saturation=0.2)
    factors = colourfulness(after) / colourfulness(before)
    for i in range(500):
        torch.testing.assert_close(after[i], tv.adjust_saturation(before[i], float(factors[i])), **CLOSE)
    assert stats.kstest(factors.numpy(), stats.uniform(0.8, 0.4).cdf).pvalue > 1e-4


def test_brightness_contrast_and_saturation_follow_in_this_order() -> None:
    before = pictures(50, low=0.4, high=0.55)
    settings = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2}
    after = changed(before, jitter=1.0, **settings)
    # One change alone shows its factor; the same draws serve when they are together.
    bright = changed(before, jitter=1.0, brightness=0.4).mean((1, 2, 3)) / before.mean((1, 2, 3))
    contrast = changed(before, jitter=1.0, contrast=0.4).std((1, 2, 3)) / before.std((1, 2, 3))
    saturation = colourfulness(changed(before, jitter=1.0, saturation=0.2)) / colourfulness(before)
    factors = torch.stack([bright, contrast, saturation])
    # Three independent draws: a correlation of 50 pairs has a standard deviation of 1 / 7.
    assert (torch.corrcoef(factors).fill_diagonal_(0).abs() < 4 / 7).all()
    for i in range(50):
        expected = tv.adjust_brightness(before[i], float(bright[i]))
        expected = tv.adjust_contrast(expected, float(contrast[i]))
        expected = tv.adjust_saturation(expected, float(saturation[i]))
        torch.testing.assert_close(after[i], expected, **CLOSE)


def test_the_whole_jitter_is_its_definition_written_out() -> None:
    before = pictures(20, low=0.0, high=1.0)
    after = changed(before, jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    drawn = 2 * draws(20).uniform(9).double() - 1
    yiq = np.array(YIQ)
    for i in range(20):
        bright, contrast, saturation = (1 + drawn[i, :3] * torch.tensor([0.4, 0.4, 0.2])).tolist()
        angle = 2 * math.pi * 0.1 * float(drawn[i, 3])
        pixels = before[i].double().numpy() * bright
        middle = float(np.tensordot(LUMINANCE, pixels, 1).mean())
        pixels = contrast * pixels + (1 - contrast) * middle
        grey = np.tensordot(LUMINANCE, pixels, 1)
        pixels = saturation * pixels + (1 - saturation) * grey
        y, first, second = np.tensordot(yiq, pixels, 1)
        turned = np.stack([
            y, math.cos(angle) * first - math.sin(angle) * second, math.sin(angle) * first + math.cos(angle) * second
        ])  # fmt: skip
        expected = np.clip(np.tensordot(np.linalg.inv(yiq), turned, 1), 0, 1)  # once, at the end
        np.testing.assert_allclose(after[i].numpy(), expected, atol=2e-6)
    assert float(after.min()) > -1e-6
    assert float(after.max()) < 1 + 1e-6
    assert ((after < 1e-6) | (after > 1 - 1e-6)).any()  # something was clipped


def hue_turns(before: Tensor, after: Tensor) -> list[float]:
    """By which share of the circle each image's pixels, all alike, were turned in the plane of I and Q."""
    planes = []
    for pixels in (before, after):
        _, first, second = torch.einsum("ij,bjhw->ibhw", torch.tensor(YIQ), pixels)
        planes.append(torch.complex(first, second))
    ratio, strong = planes[1] / planes[0], planes[0].abs() > 0.03  # a grey has no angle
    shares = []
    for i in range(len(before)):
        turned = ratio[i][strong[i]]
        torch.testing.assert_close(turned, turned.mean().expand_as(turned), rtol=0, atol=1e-3)
        shares.append(float(turned.mean().angle()) / (2 * math.pi))
        assert float(turned.mean().abs()) == pytest.approx(1, abs=1e-4)
    return shares


def test_hue_is_turned_by_a_share_of_the_circle_uniform_in_its_range() -> None:
    before = pictures(500)
    after = changed(before, jitter=1.0, hue=0.1)
    torch.testing.assert_close(luminance(after), luminance(before), rtol=0, atol=1e-5)
    assert stats.kstest(hue_turns(before, after), stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-4


def test_the_loss_of_colour_is_torchvisions() -> None:
    before = pictures(20, low=0.0, high=1.0)
    after = changed(before, grayscale=1.0)
    torch.testing.assert_close(after, tv.rgb_to_grayscale(before, 3), **CLOSE)
    also_jittered = changed(before, grayscale=1.0, jitter=1.0, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    spread = also_jittered.amax(1) - also_jittered.amin(1)
    assert float(spread.max()) < 1e-5


def test_solarising_is_torchvisions() -> None:
    before = pictures(20, low=0.0, high=1.0)
    torch.testing.assert_close(changed(before, solarize=1.0), tv.solarize(before, 0.5), rtol=0, atol=1e-6)


def test_turning_keeps_the_luminance_and_greys() -> None:
    generator = torch.Generator().manual_seed(0)
    angle = (torch.rand(50, generator=generator, dtype=torch.float64) - 0.5) * 20
    saturation = 2 * torch.rand(50, generator=generator, dtype=torch.float64)
    weights = torch.tensor(LUMINANCE, dtype=torch.float64)
    for matrix in hue_saturation_matrix(angle, saturation):
        torch.testing.assert_close(weights @ matrix, weights)
        torch.testing.assert_close(matrix.sum(1), torch.ones(3, dtype=torch.float64))


def test_turning_by_a_full_circle_changes_nothing_and_turns_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 50, generator=generator, dtype=torch.float64) * 6
    ones = torch.ones(50, dtype=torch.float64)
    whole = torch.full_like(ones, 2 * math.pi)
    for full in (0 * whole, whole, -whole, 3 * whole):
        torch.testing.assert_close(
            hue_saturation_matrix(full, ones), torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
        )
    torch.testing.assert_close(
        hue_saturation_matrix(one, ones) @ hue_saturation_matrix(other, ones), hue_saturation_matrix(one + other, ones)
    )
    half = hue_saturation_matrix(0.5 * whole, ones) - torch.eye(3, dtype=torch.float64)
    assert (half.abs().amax((1, 2)) > 0.5).all()
    torch.testing.assert_close(
        hue_saturation_matrix(one, 0 * ones), hue_saturation_matrix(other, 0 * ones)
    )  # without colour no hue


@pytest.mark.parametrize(("rows", "cols"), [(20, 28), (1, 40), (224, 16)])
def test_blur_is_scipys_with_renormalised_borders(rows: int, cols: int) -> None:
    pixels, sigma = pictures(5, rows, cols, 0.0, 1.0).double(), torch.tensor([0.1, 0.9, 2.0, 30.0, 100.0]).double()
    after = blur_images(pixels, sigma)
    for i in range(5):
        widths = (float(sigma[i]) * rows / 224, float(sigma[i]) * cols / 224)  # of a side of 224
        for channel in range(3):
            # Zeros outside, divided by what the kernel has inside; it reaches as far as the image.
            kernel = {"sigma": widths, "mode": "constant", "radius": (rows, cols)}
            above = ndimage.gaussian_filter(pixels[i, channel].numpy(), **kernel)
            below = ndimage.gaussian_filter(np.ones((rows, cols)), **kernel)
            np.testing.assert_allclose(
                after[i, channel].numpy(), above / below, rtol=0, atol=1e-7
            )  # distances are float32


def test_blur_is_an_average_with_gaussian_weights() -> None:
    pixels = pictures(1, 3, 4, 0.0, 1.0).double()
    after = blur_images(pixels, torch.tensor([60.0]).double())[0]
    for channel in range(3):
        for row in range(3):
            for col in range(4):
                total = weights = 0.0
                for other_row in range(3):
                    for other_col in range(4):
                        down, across = (other_row - row) * 224 / 3, (other_col - col) * 224 / 4
                        weight = math.exp(-(down**2 + across**2) / (2 * 60.0**2))
                        total += weight * float(pixels[0, channel, other_row, other_col])
                        weights += weight
                assert float(after[channel, row, col]) == pytest.approx(total / weights, rel=1e-7)


def blur_widths(count: int, chance: float = 1.0) -> Tensor:
    """(count,) standard deviations, 0 without blur, from images with a side of 224, black but for one column."""
    parts = []
    for first in range(0, count, 200):
        line = torch.zeros(200, 3, 1, 224)
        line[..., 112] = 1.0
        after = jitter_colors(line, ColorJitter(**OFF, blur=chance), draws(200, first), torch.zeros(3), torch.ones(3))
        # Two neighbours' weights differ by the factor exp(-1 / (2 sigma^2)).
        parts.append((-0.5 / (after[:, 0, 0, 113] / after[:, 0, 0, 112]).double().log()).sqrt())
    return torch.cat(parts)


def test_the_blurs_width_is_uniform_between_a_tenth_and_two_pixels_of_224() -> None:
    assert stats.kstest(blur_widths(200).numpy(), stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4


def test_an_images_draws_do_not_depend_on_its_batch() -> None:
    every = {"jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.2,
             "blur": 0.5, "solarize": 0.5}  # fmt: skip
    before = pictures(30, low=0.0, high=1.0)
    together = changed(before, draws(30), **every)
    for i in range(30):
        alone = changed(before[i : i + 1], draws(1, first=i), **every)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    order = torch.arange(29, -1, -1)
    backwards = changed(before[order], CounterRNG(sample_keys(order, 7, "augment", 3)), **every)
    torch.testing.assert_close(backwards[order], together, rtol=0, atol=1e-5)


def within_four_sigma(happened: Tensor, chance: float) -> bool:
    """Whether a count of independent events of that chance is within four standard deviations of what is expected."""
    count = len(happened)
    return abs(int(happened.sum()) - count * chance) < 4 * math.sqrt(count * chance * (1 - chance))


def test_chances_are_met_and_independent() -> None:
    count = 20_000
    before = torch.tensor([0.3, 0.45, 0.7]).view(1, 3, 1, 1).expand(count, 3, 1, 1)  # blue is above the threshold

    def happened(**chances: float) -> Tensor:
        return (changed(before, draws(count), **chances) - before).abs().amax((1, 2, 3)) > 1e-4

    # A factor within 1e-4 / 0.7 of 1 goes unseen: of 16,000 jitters about 6, the bound being 226.
    seen = {"jitter": happened(jitter=0.8, brightness=0.4), "grayscale": happened(grayscale=0.2),
            "solarize": happened(solarize=0.3)}  # fmt: skip
    # Next to a one a zero gets at least exp(-1 / (2 * 0.1^2)) = 2e-22 of it, whatever the width, if the side is 224.
    line = torch.zeros(200, 3, 1, 224)
    line[..., ::2] = 1.0
    parts = []
    for first in range(0, 2000, 200):
        after = jitter_colors(line, ColorJitter(**OFF, blur=0.4), draws(200, first), torch.zeros(3), torch.ones(3))
        parts.append((after - line).abs().amax((1, 2, 3)) > 0)
    seen["blur"] = torch.cat(parts)
    chances = {"jitter": 0.8, "grayscale": 0.2, "solarize": 0.3, "blur": 0.4}
    for name, chance in chances.items():
        assert within_four_sigma(seen[name], chance), name
        for other in set(chances) - {name}:
            length = min(len(seen[name]), len(seen[other]))
            both = seen[name][:length] & seen[other][:length]
            assert within_four_sigma(both, chance * chances[other]), (name, other)


def test_how_much_depends_neither_on_whether_nor_on_one_another() -> None:
    before = pictures(400)
    before[:, :, 0, 0] = torch.tensor([0.55, 0.35, 0.6])  # above the threshold, and of a colour

    def after(**chances: float) -> Tensor:
        return changed(before, draws(400), **chances)

    amounts = [
        after(jitter=1.0, brightness=0.4).mean((1, 2, 3)) / before.mean((1, 2, 3)),
        after(jitter=1.0, contrast=0.4).std((1, 2, 3)) / before.std((1, 2, 3)),
        colourfulness(after(jitter=1.0, saturation=0.2)) / colourfulness(before),
        torch.tensor(hue_turns(before, after(jitter=1.0, hue=0.1))),
        blur_widths(400),
    ]
    single = ({"jitter": 0.5, "brightness": 0.4}, {"grayscale": 0.5}, {"solarize": 0.5})
    events = [(after(**chances) - before).abs().amax((1, 2, 3)) > 1e-3 for chances in single]
    events.append(blur_widths(400, 0.5) > 0)
    table = torch.stack([column.double() for column in (*amounts, *events)])
    # Between independent columns of 400 a correlation has a standard deviation of 1 / 20.
    assert float(torch.corrcoef(table).fill_diagonal_(0).abs().max()) < 4 / 20


def test_chances_of_0_and_1_are_never_and_always() -> None:
    before = pictures(2000, 2, 2, 0.0, 1.0)
    ranges = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    torch.testing.assert_close(changed(before, **ranges), before, rtol=0, atol=1e-6)
    always = changed(before, **ranges, jitter=0.0, grayscale=1.0)
    assert float((always.amax(1) - always.amin(1)).max()) < 1e-5


@pytest.mark.parametrize(
    "chances",
    [OFF, {}, {"blur": 1.0, "solarize": 0.5}, {**OFF, "grayscale": 1.0}],
    ids=["none", "usual", "all", "gray"],
)
def test_the_same_draws_are_used_whatever_the_chances(chances: dict[str, float]) -> None:
    used, fresh = draws(4), draws(4)
    jitter_colors(pictures(4), ColorJitter(**chances), used, MEAN, STD)
    fresh.uniform(9)
    assert torch.equal(used.bits(5), fresh.bits(5))


def test_one_change_does_not_move_the_draws_of_another() -> None:
    before = pictures(300)
    bright = changed(before, jitter=0.5, brightness=0.4)
    grey = changed(before, jitter=0.5, brightness=0.4, grayscale=0.3)
    coloured = (grey.amax(1) - grey.amin(1)).amax((1, 2)) > 1e-3
    assert 150 < int(coloured.sum()) < 270
    torch.testing.assert_close(grey[coloured], bright[coloured], rtol=0, atol=1e-5)
    torch.testing.assert_close(grey[~coloured].mean((1, 2, 3)), luminance(bright[~coloured]).mean((1, 2)))


@pytest.mark.parametrize("name", ["dino", "ibot", "barlow"])
def test_the_two_crops_get_byols_chances(name: str) -> None:
    recipe = REGISTRY.create(name, **{} if name == "barlow" else {"local_crops": 3}).recipe(3)
    jitter = (0.8, 0.4, 0.4, 0.2, 0.1, 0.2)
    for colours, blur, solarize in (
        (recipe.full[0], 1.0, 0.0),
        (recipe.full[1], 0.1, 0.2),
        (recipe.local_colours, 0.5, 0.0),
    ):
        assert colours is not None
        given = (
            colours.jitter,
            colours.brightness,
            colours.contrast,
            colours.saturation,
            colours.hue,
            colours.grayscale,
        )
        assert (*given, colours.blur, colours.solarize) == (*jitter, blur, solarize)
    assert (len(recipe.full), recipe.local) == (2, 0 if name == "barlow" else 3)


def test_local_crops_are_blurred_by_as_many_of_their_pixels_as_full_ones(tmp_path: Path) -> None:
    """DINO's sigma is in pixels of the crop, whatever its size: a dot spreads as far in both."""
    only_blur = ColorJitter(**OFF, blur=1.0, solarize=0.0)
    config = tiny_config(tmp_path, data__img_size=64, model__patch_size=8)
    dots, strategy = tiny_subject.splits(), make_plan(config).strategy
    index = torch.arange(200)
    spreads = []

    def spread(images: Tensor, colours: ColorJitter, draws: CounterRNG, *rest: Any) -> Tensor:
        """The same dot for crops of any size, and the same draws."""
        dot = torch.zeros_like(images)
        dot[:, :, images.shape[2] // 2, images.shape[3] // 2] = 1
        made = jitter_colors(dot, colours, CounterRNG(sample_keys(index, 0, "same")), *rest)
        spreads.append(made.amax((1, 2, 3)))
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(crops, "jitter_colors", spread)
        recipe = Recipe(full=(only_blur,), local=1, local_size=0.5, local_colours=only_blur)
        crops.make_full_crops(config, strategy, dots, recipe, dots.train.take(index), index, 0)
        crops.make_local_crops(config, dots, recipe, dots.train.take(index), index, 0)
    full, local = spreads
    torch.testing.assert_close(full, local, rtol=1e-3, atol=1e-4)
    assert full.min() < 0.9, "something is blurred"


@pytest.mark.parametrize("name", ["dino", "ibot", "barlow"])
def test_images_without_colours_are_refused_unless_colours_are_off(name: str) -> None:
    with pytest.raises(UsageError, match=f"objective {name} changes colours.*:colour=false"):
        REGISTRY.create(name).recipe(1)
    recipe = REGISTRY.create(name, colour=False).recipe(1)
    assert recipe.full == (None, None) and recipe.local_colours is None
