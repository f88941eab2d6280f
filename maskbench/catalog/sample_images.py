"""A few images with all signals that strategies need, without any training: for pictures and for `list --json`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskbench.config.resolve import parse_config
from maskbench.core.grid import Grid
from maskbench.core.rng import derive_seed
from maskbench.core.view import View
from maskbench.data import load_dataset, shapes
from maskbench.data.augment import central_boxes, resample, source_margin
from maskbench.data.splits import Images
from maskbench.models.encoder import build_encoder
from maskbench.strategy import Strategy
from maskbench.training.degrade import degrade

STAND_IN = "the share of the object in each patch stands in for a trained teacher's attention and loss"
PROGRESS = 0.5  # where in the training, for strategies that change in its course


@dataclass(frozen=True)
class SampleBatch:
    """B test images and what strategies need to mask them.

    Attributes:
        pictured: The images as the data set has them.
        images: (B, C, H, W) float, cropped to size and normalised by `mean` and `std`.
        grid: Their patches.
        mean: (C,) of pixels in [0, 1].
        std: (C,) likewise.
        signals: By name, stand-ins for the signals of a trained teacher.
        stand_in: A line that says what the signals are.
    """

    pictured: Images
    images: Tensor
    grid: Grid
    mean: Tensor
    std: Tensor
    signals: dict[str, Tensor]
    stand_in: str

    def view(self, strategy: Strategy, seed: int = 0, progress: float = PROGRESS) -> View:
        """The strategy's complete view of the images."""
        inputs: dict[str, Any] = {name: self.signals[name] for name in strategy.needs}
        images, size = self.images, self.grid.image_size
        if strategy.source_scale > 1:
            top, left = source_margin(size, strategy.source_scale)
            wide = (size[0] + 2 * top, size[1] + 2 * left)
            inputs["source"] = self.crop(wide)
            images = inputs["source"][:, :, top : top + size[0], left : left + size[1]].contiguous()
        return degrade(strategy, images, patch_size=self.grid.patch, seed=seed, progress=progress, **inputs)

    def crop(self, size: tuple[int, int]) -> Tensor:
        """The images' largest central crop at this size, normalised."""
        return resample(self.pictured, central_boxes(self.pictured, size), size, self.mean, self.std)

    @property
    def objects(self) -> Tensor | None:
        """(B, N) share of each patch that shows the object, where the data set knows."""
        return object_shares(self.pictured, self.grid)


def sample_batch(dataset: str, img_size: str, patch_size: int, count: int, seed: int = 0) -> SampleBatch:
    """`count` test images, spread evenly over the data set. UsageError where data set and sizes do not fit."""
    config = parse_config({"data": {"dataset": dataset, "img_size": img_size}, "model": {"patch_size": patch_size}})
    size = config.data.img_size
    pictured, mean, std = _load_images(dataset, size, config.data.in_chans, count)
    grid = Grid(size[0] // patch_size, size[1] // patch_size, patch_size)
    images = resample(pictured, central_boxes(pictured, size), size, mean, std)
    signals, stand_in = teacher_signals(images, pictured, grid, seed)
    return SampleBatch(pictured, images, grid, mean, std, signals, stand_in)


def _load_images(dataset: str, size: tuple[int, int], channels: int, count: int) -> tuple[Images, Tensor, Tensor]:
    if dataset == "shapes":  # the same pictures as those of the data set, without making all of them
        pictured = shapes.generate("test", count, *size, channels)
        std, mean = torch.std_mean(pictured.pixels.float() / 255, (0, 2, 3))
        return pictured, mean, std
    splits = load_dataset(dataset, size, channels)
    images = splits.test if len(splits.test) else splits.train  # without labels all are train
    number = torch.arange(min(count, len(images)))
    spread = number * (len(images) // len(number)) + number  # of several classes
    return images.take(spread.clamp(max=len(images) - 1)), splits.mean, splits.std


def object_shares(pictured: Images, grid: Grid) -> Tensor | None:
    """(B, N) share of each patch that shows the object in the whole image, None where the data set does not know."""
    if pictured.objects is None:
        return None
    shares = torch.nn.functional.adaptive_avg_pool2d(pictured.objects[:, None].float(), (grid.rows, grid.cols))
    return shares.flatten(1)


def teacher_signals(images: Tensor, pictured: Images, grid: Grid, seed: int) -> tuple[dict[str, Tensor], str]:
    """Stand-ins for a trained teacher's signals on `images`, and a line that says what they are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed(seed, "show"))
        kwargs = {"embed_dim": 96, "depth": 2, "num_heads": 3}
        encoder = build_encoder("vit_tiny_patch16_224", grid, images.shape[1], kwargs, plain_attention=True).eval()
        signals = {
            "attention": encoder.cls_attention(images),
            "features": encoder(images).patches,
            "embeddings": encoder.embed_patches(images),
        }
    objects = object_shares(pictured, grid)
    stand_in = "an untrained encoder stands in for a trained teacher"
    if objects is not None:
        signals["attention"] = objects + 1e-3 * signals["attention"]
        stand_in = STAND_IN
    signals["patch_loss"] = signals["attention"]
    signals["parts"] = (signals["attention"] > signals["attention"].mean(1, keepdim=True)).float()
    return signals, stand_in
