"""Pictures of several strategies on the same images, without any training."""

from pathlib import Path
from typing import Any

from torch import Tensor

from maskbench import strategy as strategies
from maskbench.catalog.pictures import gallery_figure, masks_figure, save
from maskbench.catalog.sample_images import sample_batch
from maskbench.core.view import View
from maskbench.errors import UsageError
from maskbench.runtime.escaping import print_message
from maskbench.strategy import Strategy


def draw_strategies(
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
    """Draw strategies on the same test images.

    Args:
        specs: {"name", "parameters"} of each strategy.
        output: The file to write: .png, .jpg or .webp.
        dataset: A data set as `run --dataset` names it.
        img_size: "224", or "160x224" (rows x columns).
        patch_size: Side of a patch in pixels.
        matched: The ratio of the matched regime; None for each paper's own settings.
        seed: Of the masks.
        count: Number of images.
        gallery: One row for each strategy, only what the encoder sees; a strategy that does not support these images or
            this ratio is left out, with a line on stderr.

    Raises:
        UsageError: A strategy does not support these images or this ratio.
    """
    batch = sample_batch(dataset, img_size, patch_size, count, seed)
    views, with_signals, whole = {}, [], []
    for spec in specs:
        label = label_of(spec)
        try:
            strategy = create_strategy(spec, matched)
            views[label] = batch.view(strategy, seed)
        except ValueError as error:
            if not gallery:
                raise UsageError(str(error)) from None
            print_message(f"left out {error}")
            continue
        if strategy.needs:
            with_signals.append(label)
        if untouched := count_whole_images(views[label], batch.images):
            whole.append(f"{label} {untouched} of {len(batch.images)}")
    notes = [f"{', '.join(with_signals)}: {batch.stand_in}."] if with_signals else []
    notes += [f"Images that are left whole, by chance as in training: {', '.join(whole)}."] if whole else []
    caption = "\n".join(notes)
    figure = gallery_figure if gallery else masks_figure
    save(figure(views, batch.images, batch.grid, batch.mean, batch.std, caption), output)


def count_whole_images(view: View, images: Tensor) -> int:
    """How many of the images (B, C, H, W) a complete view leaves as they are, nothing hidden and no pixel changed."""
    if view.images.shape != images.shape:
        return 0
    changed = (view.images != images).flatten(1).any(1)
    return int((~changed if view.hidden is None else ~(changed | view.hidden.any(1))).sum())


def label_of(spec: dict[str, Any]) -> str:
    """The strategy as on the command line: "gmml:fill=zeros"."""
    return ":".join([spec["name"], *(f"{key}={value}" for key, value in spec["parameters"].items())])


def create_strategy(spec: dict[str, Any], matched: float | None) -> Strategy:
    """The strategy of `spec`, in the matched regime at this ratio; with None, in the settings of its paper."""
    strategy = strategies.REGISTRY.get(spec["name"])()
    strategy = strategy if matched is None else strategy.matched(matched)
    return strategy.replace(**spec["parameters"])
