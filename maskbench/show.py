"""Strategies drawn on the same images, without any training."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskbench import strategy as strategies
from maskbench.config import parse
from maskbench.data import load
from maskbench.data.augment import central_boxes, margin, resample
from maskbench.data.splits import Images, Splits
from maskbench.draws import seed_for
from maskbench.grid import Grid
from maskbench.library import degrade
from maskbench.pictures import masks_figure, save_png
from maskbench.vit import build_encoder


def draw(
    specs: list[dict[str, Any]],
    output: Path,
    dataset: str,
    img_size: str,
    patch_size: int,
    matched: float | None,
    seed: int,
    count: int,
) -> None:
    """A picture of the strategies `specs` ({name, parameters}) on `count` test images, to `output`.

    matched: the ratio of the matched regime, or None for the paper's. Signals of a teacher come from the object's
    mask where the data have one, else from an encoder as initialised; the caption says which.
    """
    settings = {"data": {"dataset": dataset, "img_size": img_size}, "model": {"patch_size": patch_size}}
    config = parse(settings)
    splits = load(dataset, config.data.img_size, config.data.in_chans)
    chosen = {}
    for spec in specs:
        strategy = strategies.REGISTRY.get(spec["name"])()
        strategy = strategy if matched is None else strategy.matched(matched)
        label = ":".join([spec["name"], *(f"{key}={value}" for key, value in spec["parameters"].items())])
        chosen[label] = strategy.replace(**spec["parameters"])
    number = torch.arange(min(count, len(splits.test)))
    pictured = splits.test.take(number * (len(splits.test) // len(number)) + number)  # far apart, of several classes
    size = config.data.img_size
    images = resample(pictured, central_boxes(pictured, size), size, splits.mean, splits.std)
    signals, told = teacher_signals(images, pictured, splits, Grid.of(images, patch_size), seed)
    views = {}
    for label, strategy in chosen.items():
        given = {name: value for name, value in signals.items() if name in strategy.needs}
        clean = images
        if strategy.source_scale > 1:
            top, left = margin(size, strategy.source_scale)
            wide = (size[0] + 2 * top, size[1] + 2 * left)
            given["source"] = resample(pictured, central_boxes(pictured, wide), wide, splits.mean, splits.std)
            clean = given["source"][:, :, top : top + size[0], left : left + size[1]].contiguous()
        views[label] = degrade(strategy, clean, patch_size=patch_size, seed=seed, progress=0.5, **given)  # type: ignore[arg-type]
    caption = told if any(strategy.needs for strategy in chosen.values()) else ""
    save_png(masks_figure(views, images, Grid.of(images, patch_size), splits.mean, splits.std, caption), output)


def teacher_signals(
    images: Tensor, pictured: Images, splits: Splits, grid: Grid, seed: int
) -> tuple[dict[str, Tensor], str]:
    """Stand-ins for a trained teacher's signals on `images`, and a caption that says what they are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed_for(seed, "show"))
        kwargs = {"embed_dim": 96, "depth": 2, "num_heads": 3}
        encoder = build_encoder("vit_tiny_patch16_224", grid, images.shape[1], kwargs, plain_attention=True).eval()
        signals = {
            "attention": encoder.cls_attention(images),
            "features": encoder(images).patches,
            "embeddings": encoder.patch_embeddings(images),
        }
    if pictured.objects is None:
        return signals, "Attention of an encoder as initialised stands in for a trained teacher's."
    objects = torch.nn.functional.adaptive_avg_pool2d(pictured.objects[:, None].float(), (grid.rows, grid.cols))
    signals["attention"] = objects.flatten(1) + 1e-3 * signals["attention"]
    return signals, "The share of the object in each patch stands in for a trained teacher's attention."
