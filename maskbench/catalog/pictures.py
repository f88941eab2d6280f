"""Pictures of views: the image, what the encoder sees of it, and what must be recovered."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import Term, View
from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import write_atomically

HIDDEN, REPLACED, THROWN = 0.82, 0.55, 0.15  # greys of what the encoder does not see
CELL = 0.9  # inches


@matplotlib.rc_context({"text.parse_math": False})  # names may have a $
def masks_figure(
    views: Mapping[str, View],
    images: Tensor,
    grid: Grid,
    mean: Tensor,
    std: Tensor,
    caption: str = "",
    painted: Tensor | None = None,
) -> Figure:
    """The clean `images` (B, C, H, W) in a row, then for each complete view by name a row of what the encoder sees
    and one for each term of what must be recovered, as strongly as it is weighted; last what the model `painted`, if
    given.
    """
    rows: list[tuple[str, np.ndarray]] = [("image", displayable(images, mean, std))]
    for name, view in views.items():
        rows.append((f"{name}\nencoder sees", encoder_sees(view, grid, mean, std)))
        for number, term in enumerate(view.terms, 1):
            label = "to recover" if len(view.terms) == 1 else f"to recover ({number})"
            rows.append((label, to_recover(term, grid, mean, std)))
    if painted is not None:
        rows.append(("recovered", displayable(painted, mean, std)))
    count = len(images)
    figure = Figure(figsize=(CELL * count + 1.2, CELL * len(rows) + 0.3), dpi=120)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for (label, pictures), line in zip(rows, axes, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    if caption:
        figure.supxlabel(caption, fontsize=7)
    return figure


@matplotlib.rc_context({"text.parse_math": False})
def gallery_figure(
    views: Mapping[str, View], images: Tensor, grid: Grid, mean: Tensor, std: Tensor, caption: str = ""
) -> Figure:
    """The clean `images` (B, C, H, W), then for each complete view by name a row of what the encoder sees, in two
    columns read downwards."""
    rows = {"image": displayable(images, mean, std)}
    rows |= {name: encoder_sees(view, grid, mean, std) for name, view in views.items()}
    half, count = -(-len(rows) // 2), len(images)
    aspect = images.shape[2] / images.shape[3]
    figure = Figure(figsize=(2 * (CELL * count + 1.25), CELL * aspect * half + 0.35), dpi=110)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    axes = figure.subplots(half, 2)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for place, (name, pictures) in enumerate(rows.items()):
        axis = axes[place % half, place // half]
        gap = np.ones((pictures.shape[1], max(1, pictures.shape[2] // 28), 3))
        strip = [part for picture in pictures for part in (picture, gap)][:-1]
        axis.imshow(np.concatenate(strip, 1), interpolation="antialiased")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    if caption:
        figure.supxlabel(caption, fontsize=8)
    return figure


def draw_samples(names: Sequence[str], rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Draw a row of images (height, width, channels) uint8 for each name, to `path`."""
    tensors = [[torch.from_numpy(image).permute(2, 0, 1) / 255 for image in row] for row in rows]
    most = max(map(len, rows))
    figure = Figure(figsize=(CELL * most + 1.4, CELL * len(rows) + 0.1), dpi=110)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    zero, one = torch.zeros(1), torch.ones(1)
    for name, row, line in zip(names, tensors, figure.subplots(len(rows), most, squeeze=False), strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image in zip(line, row, strict=False):
            axis.imshow(displayable(image[None], zero.expand(len(image)), one.expand(len(image)))[0])
        line[0].text(-0.1, 0.5, name.replace("$", r"\$"), ha="right", va="center", fontsize=8,
                     transform=line[0].transAxes)  # fmt: skip
    save(figure, path)


def encoder_sees(view: View, grid: Grid, mean: Tensor, std: Tensor) -> np.ndarray:
    """(B, H, W, 3): the degraded images, light grey where hidden, mid grey where a mask token stands, dark where
    thrown away."""
    shown = torch.from_numpy(displayable(view.images, mean, std))
    for mask, grey in ((view.hidden, HIDDEN), (view.replaced, REPLACED), (view.thrown, THROWN)):
        if mask is not None:
            shown = torch.where(grid.pixels(mask.cpu()).permute(0, 2, 3, 1), grey, shown)
    return shown.numpy()


def to_recover(term: Term, grid: Grid, mean: Tensor, std: Tensor) -> np.ndarray:
    """(B, H', W', 3): the target, fading to white where it weighs less."""
    target, weight = term.target, term.weight
    assert target is not None and weight is not None, "the view is complete"
    if weight.ndim == 2:
        weight = grid.pixels(weight)
    if term.warp is not None and term.warp_target:
        warped, flat = term.warp(target), term.warp(torch.ones_like(target))
        if warped.shape[1] == target.shape[1] and torch.allclose(flat, torch.ones_like(flat), atol=1e-3):
            target = warped  # pixels moved or averaged, which leaves a flat image flat
        else:
            weight = torch.ones_like(target)  # frequencies or components, which a picture does not show
    strength = weight.float().mean(1, keepdim=True)
    strength = (strength / strength.amax().clamp_min(1e-12)).expand(len(target), 1, *target.shape[2:])
    shown = displayable(target, mean, std)
    alpha = strength.cpu().permute(0, 2, 3, 1).numpy()
    return shown * alpha + (1 - alpha)


FORMATS = ("png", "jpg", "webp")


def save(figure: Figure, path: Path) -> None:
    """To `path`, whole or not at all, in the format of its suffix; the same figure gives the same bytes."""
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(f"cannot draw {path.name}: the name must end in one of .{', .'.join(FORMATS)}")
    options = {"metadata": {"Software": None}} if kind == "png" else {"pil_kwargs": {"quality": 85}}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": "figure"}):
        figure.savefig(buffer, format=kind, bbox_inches="tight", pad_inches=0.03, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def displayable(images: Tensor, mean: Tensor, std: Tensor) -> np.ndarray:
    """(B, H, W, 3) in [0, 1]: colours restored, grey spread over three channels, more than three cut off."""
    shown = images.float().cpu() * std.cpu().view(1, -1, 1, 1) + mean.cpu().view(1, -1, 1, 1)
    if shown.shape[1] < 3:
        shown = shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    result: np.ndarray = shown[:, :3].clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return result
