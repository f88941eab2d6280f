"""One strategy explained on a page: what it shows and asks for, where and how much it hides, what its parameters do."""

import inspect
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

from maskbench.catalog.gallery import create, label_of
from maskbench.catalog.render import displayable, encoder_sees, save, to_recover
from maskbench.catalog.sample_images import Specimen, specimen
from maskbench.core.view import View, realised_ratio
from maskbench.errors import UsageError
from maskbench.strategy import Strategy
from maskbench.training.mask_statistics import diagnose, hidden_tokens

DRAWS = 1_000  # of images, for coverage and ratio
PICTURED = 6
MOST = 6  # values of a parameter
SHARES = (0.15, 0.3, 0.5, 0.75, 0.9)
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
WIDTH, ROW, LINE = 7.5, 1.25, 0.16  # inches
LEFT = 0.13  # of the width, for what the rows are
Shown = list[tuple[str, np.ndarray]]  # titles and pictures (H, W, 3)


def explain(
    spec: dict[str, Any], output: Path, dataset: str, img_size: str, patch_size: int, matched: float | None, seed: int
) -> None:
    """The page of the strategy `spec` ({name, parameters}), to `output`. UsageError where the images do not suit it."""
    found = specimen(dataset, img_size, patch_size, PICTURED, seed)
    strategy = create(spec, matched)
    try:
        view = found.view(strategy, seed)
    except ValueError as error:
        raise UsageError(str(error)) from None
    save(_page(label_of(spec), strategy, view, found, seed), output)


def _page(label: str, strategy: Strategy, view: View, found: Specimen, seed: int) -> Figure:
    words = "\n".join(textwrap.wrap(" ".join((inspect.getdoc(type(strategy)) or "").split()), 118))
    told = f"Needs {', '.join(sorted(strategy.needs))}: {found.told}." if strategy.needs else ""
    rows = {"image": displayable(found.images, found.mean, found.std)}
    rows |= {"encoder sees": encoder_sees(view, found.grid, found.mean, found.std)}
    for number, term in enumerate(view.terms, 1):
        name = "to recover" if len(view.terms) == 1 else f"to recover ({number})"
        rows[name] = to_recover(term, found.grid, found.mean, found.std)
    changes = dict(_changes(strategy, view, found, seed))
    heights = [0.5 + LINE * (words.count("\n") + 1 + bool(told)), ROW * len(rows), 1.9, *[ROW] * len(changes)]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=120)
    FigureCanvasAgg(figure)
    parts = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights))  # type: ignore[arg-type]
    parts[0].text(0.01, 0.97, label, fontsize=13, fontweight="bold", va="top")
    parts[0].text(0.01, 0.97 - 0.3 / heights[0], f"{words}\n{told}".strip(), fontsize=7.5, va="top", linespacing=1.35)
    _pictures(parts[1], [(name, list(zip([""] * PICTURED, pictures, strict=False))) for name, pictures in rows.items()])
    _statistics(parts[2], strategy, view, found, seed)
    for part, (name, shown) in zip(parts[3:], changes.items(), strict=True):
        _pictures(part, [(name, shown)])
    return figure


def _pictures(part: SubFigure, rows: list[tuple[str, Shown]]) -> None:
    """Rows of pictures, PICTURED places wide, the name of each at its left."""
    axes = part.subplots(len(rows), PICTURED, squeeze=False)
    part.subplots_adjust(left=LEFT, right=1, top=1 - 0.12 / (ROW * len(rows)), bottom=0, wspace=0.03, hspace=0.12)
    for (name, shown), line in zip(rows, axes, strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, (title, picture) in zip(line, shown, strict=False):
            axis.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(title, fontsize=7, pad=2)
        line[0].set_ylabel("\n".join(textwrap.wrap(name, 14)), rotation=0, ha="right", va="center", fontsize=8)


def _statistics(part: SubFigure, strategy: Strategy, view: View, found: Specimen, seed: int) -> None:
    """Where and how much is hidden over DRAWS draws, and what the masks look like in numbers."""
    where, how_much, numbers = part.subplots(1, 3, width_ratios=[1, 1.2, 0.8])
    part.subplots_adjust(left=LEFT, right=1, top=0.95, bottom=0.25, wspace=0.25)
    ratios, hidden = [], []
    for draw in range(-(-DRAWS // len(found.images))):
        one = found.view(strategy, seed + draw)
        ratios.append(realised_ratio(one, found.grid))
        tokens = hidden_tokens(one, found.grid)
        if tokens is not None:
            hidden.append(tokens.float())
    drawn = f"{len(ratios) * len(found.images):,} draws"
    _coverage(where, hidden, found, drawn)
    shares = torch.cat(ratios).numpy()
    how_much.hist(shares, bins=np.linspace(-0.0125, 1.0125, 42), color="0.35")
    how_much.set_xlabel(f"share hidden, {drawn}", fontsize=7)
    how_much.set_yticks([])
    how_much.tick_params(labelsize=7)
    how_much.spines[["top", "right", "left"]].set_visible(False)
    measured = diagnose(view, found.view(strategy, seed + 1), found.grid, found.objects)
    measured |= {"realised_ratio_mean": float(shares.mean()), "realised_ratio_sd": float(shares.std())}
    lines = [f"{name.replace('_', ' ')}: {value:.3g}" for name, value in measured.items() if isinstance(value, float)]
    numbers.text(0, 1, "\n".join(lines), fontsize=7.5, va="top", linespacing=1.5)
    numbers.axis("off")


def _coverage(axis: Axes, hidden: list[torch.Tensor], found: Specimen, drawn: str) -> None:
    axis.set(xticks=[], yticks=[])
    if not hidden:
        axis.axis("off")
        axis.text(0, 0.5, "hides no place:\nit changes pixels, or\nall must be recovered", fontsize=7.5, va="center")
        return
    grid = found.grid
    often = torch.cat(hidden).mean(0).view(grid.rows, grid.cols).numpy()
    image = axis.imshow(often, vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
    axis.set_xlabel(f"how often each patch is hidden, {drawn}", fontsize=7)
    bar = axis.figure.colorbar(image, ax=axis, fraction=0.05)
    bar.ax.tick_params(labelsize=6)


def _changes(strategy: Strategy, view: View, found: Specimen, seed: int) -> Iterator[tuple[str, Shown]]:
    """For each parameter that changes anything, and for the training's progress: what the encoder sees by value, of the
    image that changes most. The strategy's own value is marked."""
    before = _seen(view, found)
    for name, value in strategy.parameters.items():
        seen = {}
        for one in alternatives(strategy, name)[:MOST]:
            with suppress(ValueError):  # not with the other parameters, or not on this grid
                title = f"{_text(one)}{' (as above)' if one == value else ''}"
                seen[title] = _seen(found.view(strategy.replace(**{name: one}), seed), found)
        yield from _telling(name, before, seen)
    along = {f"at {progress:.0%}": _seen(found.view(strategy, seed, progress), found) for progress in PROGRESS}
    yield from _telling("in the course of training", along["at 0%"], along)


def _telling(name: str, before: np.ndarray, seen: dict[str, np.ndarray]) -> Iterator[tuple[str, Shown]]:
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


def _seen(view: View, found: Specimen) -> np.ndarray:
    """(B, H, W, 3)."""
    return encoder_sees(view, found.grid, found.mean, found.std)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
