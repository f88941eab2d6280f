"""Strategies drawn on the same images, without any training."""

import sys
from pathlib import Path
from typing import Any

from maskbench import strategy as strategies
from maskbench.catalog.render import gallery_figure, masks_figure, save
from maskbench.catalog.sample_images import specimen
from maskbench.errors import UsageError
from maskbench.strategy import Strategy


def draw(
    specs: list[dict[str, Any]],
    output: Path,
    dataset: str,
    img_size: str,
    patch_size: int,
    matched: float | None,
    seed: int,
    count: int,
    gallery: bool,
) -> None:
    """A picture of the strategies `specs` ({name, parameters}) on `count` test images, to `output`.

    matched: the ratio of the matched regime, or None for the paper's. gallery: a row a strategy, what the encoder sees
    alone; strategies that do not serve these images or this ratio are named on stderr and left out.
    """
    found = specimen(dataset, img_size, patch_size, count, seed)
    views, guided = {}, []
    for spec in specs:
        label = label_of(spec)
        try:
            strategy = create(spec, matched)
            views[label] = found.view(strategy, seed)
        except ValueError as error:
            if not gallery:
                raise UsageError(str(error)) from None
            print(f"maskbench: left out {error}", file=sys.stderr)
            continue
        if strategy.needs:
            guided.append(label)
    caption = f"{', '.join(guided)}: {found.told}." if guided else ""
    figure = gallery_figure if gallery else masks_figure
    save(figure(views, found.images, found.grid, found.mean, found.std, caption), output)


def label_of(spec: dict[str, Any]) -> str:
    """What was typed."""
    return ":".join([spec["name"], *(f"{key}={value}" for key, value in spec["parameters"].items())])


def create(spec: dict[str, Any], matched: float | None) -> Strategy:
    """The strategy of `spec`, in the matched regime at this ratio, or in the paper's."""
    strategy = strategies.REGISTRY.get(spec["name"])()
    strategy = strategy if matched is None else strategy.matched(matched)
    return strategy.replace(**spec["parameters"])
