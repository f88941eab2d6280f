"""One strategy explained in a picture: what the encoder sees, where and how much is hidden, what parameters do."""

import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from maskbench.catalog.docstrings import describe
from maskbench.catalog.gallery import create_strategy, label_of
from maskbench.catalog.pictures import displayable, encoder_sees, save, to_recover
from maskbench.catalog.sample_images import SampleBatch, sample_batch
from maskbench.core.view import View, realised_ratio
from maskbench.errors import UsageError
from maskbench.strategy import Strategy
from maskbench.training.mask_statistics import diagnose, hidden_tokens

DRAWS = 1_000  # of images, for coverage and ratio
N_IMAGES = 6
MAX_VALUES = 6  # of a parameter
SHARES = (0.15, 0.3, 0.5, 0.75, 0.9)
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
WIDTH, ROW, LINE = 7.5, 1.25, 0.16  # inches
LEFT = 0.13  # of the width, for what the rows are
TitledPictures = list[tuple[str, np.ndarray]]  # titles and pictures (H, W, 3)


def draw_explanation(
    spec: dict[str, Any], output: Path, dataset: str, img_size: str, patch_size: int, matched: float | None, seed: int
) -> None:
    """Draw the page of one strategy to `output`; arguments as for `gallery.draw_strategies`. UsageError where it does
    not support these images."""
    batch = sample_batch(dataset, img_size, patch_size, N_IMAGES, seed)
    strategy = create_strategy(spec, matched)
    try:
        view = batch.view(strategy, seed)
    except ValueError as error:
        raise UsageError(str(error)) from None
    save(_draw_page(label_of(spec), strategy, view, batch, seed), output)


def _draw_page(label: str, strategy: Strategy, view: View, batch: SampleBatch, seed: int) -> Figure:
    text = describe(type(strategy))
    words = "\n".join(textwrap.wrap(f"{text.summary} {text.details}", 118))
    needs = f"Needs {', '.join(sorted(strategy.needs))}: {batch.stand_in}." if strategy.needs else ""
    rows = {"image": displayable(batch.images, batch.mean, batch.std)}
    rows |= {"encoder sees": encoder_sees(view, batch.grid, batch.mean, batch.std)}
    for number, term in enumerate(view.terms, 1):
        name = "to recover" if len(view.terms) == 1 else f"to recover ({number})"
        rows[name] = to_recover(term, batch.grid, batch.mean, batch.std)
    changes = dict(_parameter_changes(strategy, view, batch, seed))
    heights = [0.5 + LINE * (words.count("\n") + 1 + bool(needs)), ROW * len(rows), 1.9, *[ROW] * len(changes)]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=120)
    FigureCanvasAgg(figure)
    parts = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights))  # type: ignore[arg-type]
    parts[0].text(0.01, 0.97, label, fontsize=13, fontweight="bold", va="top")
    parts[0].text(0.01, 0.97 - 0.3 / heights[0], f"{words}\n{needs}".strip(), fontsize=7.5, va="top", linespacing=1.35)
    _draw_pictures(
        parts[1], [(name, list(zip([""] * N_IMAGES, pictures, strict=False))) for name, pictures in rows.items()]
    )
    _draw_statistics(parts[2], strategy, view, batch, seed)
    for part, (name, shown) in zip(parts[3:], changes.items(), strict=True):
        _draw_pictures(part, [(name, shown)])
    return figure


def _draw_pictures(part: SubFigure, rows: list[tuple[str, TitledPictures]]) -> None:
    """Rows of pictures, N_IMAGES places wide, the name of each at its left."""
    axes = part.subplots(len(rows), N_IMAGES, squeeze=False)
    part.subplots_adjust(left=LEFT, right=1, top=1 - 0.12 / (ROW * len(rows)), bottom=0, wspace=0.03, hspace=0.12)
    for (name, shown), line in zip(rows, axes, strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, (title, picture) in zip(line, shown, strict=False):
            axis.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(title, fontsize=7, pad=2)
        line[0].set_ylabel("\n".join(textwrap.wrap(name, 14)), rotation=0, ha="right", va="center", fontsize=8)


def _draw_statistics(part: SubFigure, strategy: Strategy, view: View, batch: SampleBatch, seed: int) -> None:
    """Where and how much is hidden over DRAWS draws, and what the masks look like in numbers."""
    where, how_much, numbers = part.subplots(1, 3, width_ratios=[1, 1.2, 0.8])
    part.subplots_adjust(left=LEFT, right=1, top=0.95, bottom=0.25, wspace=0.25)
    ratios, hidden = [], []
    for draw in range(-(-DRAWS // len(batch.images))):
        one = batch.view(strategy, seed + draw)
        ratios.append(realised_ratio(one, batch.grid))
        tokens = hidden_tokens(one, batch.grid)
        if tokens is not None:
            hidden.append(tokens.float())
    drawn = f"{len(ratios) * len(batch.images):,} draws"
    _draw_coverage(where, hidden, batch, drawn)
    shares = torch.cat(ratios).numpy()
    how_much.hist(shares, bins=np.linspace(-0.0125, 1.0125, 42), color="0.35")
    how_much.set_xlabel(f"share hidden, {drawn}", fontsize=7)
    how_much.set_yticks([])
    how_much.tick_params(labelsize=7)
    how_much.spines[["top", "right", "left"]].set_visible(False)
    measured = diagnose(view, batch.view(strategy, seed + 1), batch.grid, batch.objects)
    measured |= {"realised_ratio_mean": float(shares.mean()), "realised_ratio_sd": float(shares.std())}
    lines = [f"{name.replace('_', ' ')}: {value:.3g}" for name, value in measured.items() if isinstance(value, float)]
    numbers.text(0, 1, "\n".join(lines), fontsize=7.5, va="top", linespacing=1.5)
    numbers.axis("off")


def _draw_coverage(axis: Axes, hidden: list[torch.Tensor], batch: SampleBatch, drawn: str) -> None:
    axis.set(xticks=[], yticks=[])
    if not hidden:
        axis.axis("off")
        axis.text(0, 0.5, "hides no patch:\npixels change, or all\nmust be recovered", fontsize=7.5, va="center")
        return
    grid = batch.grid
    often = torch.cat(hidden).mean(0).view(grid.rows, grid.cols).numpy()
    image = axis.imshow(often, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
    axis.set_xlabel(f"how often each patch is hidden, {drawn}", fontsize=7)
    bar = axis.figure.colorbar(image, ax=axis, fraction=0.05)
    bar.ax.tick_params(labelsize=6)


def _parameter_changes(
    strategy: Strategy, view: View, batch: SampleBatch, seed: int
) -> Iterator[tuple[str, TitledPictures]]:
    """For each parameter that changes anything, and for the training's progress: what the encoder sees by value, of the
    image that changes most. The strategy's own value is marked."""
    before = _encoder_sees(view, batch)
    for name, value in strategy.parameters.items():
        seen = {}
        for one in alternatives(strategy, name)[:MAX_VALUES]:
            with suppress(ValueError):  # not with the other parameters, or not on this grid
                title = f"{_format(one)}{' (as above)' if one == value else ''}"
                seen[title] = _encoder_sees(batch.view(strategy.replace(**{name: one}), seed), batch)
        yield from _largest_change(name, before, seen)
    along = {f"at {progress:.0%}": _encoder_sees(batch.view(strategy, seed, progress), batch) for progress in PROGRESS}
    yield from _largest_change("in the course of training", along["at 0%"], along)


def _largest_change(name: str, before: np.ndarray, seen: dict[str, np.ndarray]) -> Iterator[tuple[str, TitledPictures]]:
    """The image of the batch that differs most from `before`; nothing where none does."""
    changed = sum(np.abs(pictures - before).mean((1, 2, 3)) for pictures in seen.values())
    if np.any(changed):
        image = int(np.argmax(changed))
        yield name, [(title, pictures[image]) for title, pictures in seen.items()]


def alternatives(strategy: Strategy, name: str) -> list[Any]:
    """Values worth seeing of a parameter, its own among them, in order; none where there is neither order nor list.
    Of a range its own comes first, before what is no range."""
    value, hint = strategy.parameters[name], get_type_hints(type(strategy)).get(name)
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if isinstance(value, bool):
        return [False, True]
    if isinstance(value, int):
        return sorted({max(value // 2, 1), value, 2 * value, 4 * value})
    if isinstance(value, float) and 0 <= value <= 1:
        return sorted({value, *(share for share in SHARES if abs(share - value) > 0.06)})
    if isinstance(value, list) and len(value) == 2 and all(0 <= share <= 1 for share in value):
        return [value, *SHARES]  # drawn from a range, or the same for all
    return sorted({value / 2, value, 2 * value, 4 * value}) if isinstance(value, float) else []


def _encoder_sees(view: View, batch: SampleBatch) -> np.ndarray:
    """(B, H, W, 3)."""
    return encoder_sees(view, batch.grid, batch.mean, batch.std)


def _format(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_format, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
