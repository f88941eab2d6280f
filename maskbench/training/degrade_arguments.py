"""What `degrade` accepts: each mistake is one UsageError in the caller's words, before anything is computed."""

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.core.context import SIGNALS
from maskbench.core.grid import Grid
from maskbench.data.augment import source_margin
from maskbench.errors import UsageError
from maskbench.strategy import REGISTRY, Strategy

DIMENSIONS = {"attention": 2, "patch_loss": 2, "parts": 2, "features": 3, "embeddings": 3}


def find_strategy(name_or_strategy: object) -> Strategy:
    """The strategy that is meant.

    Raises:
        UsageError: It is neither a registered name nor a strategy.
    """
    if isinstance(name_or_strategy, str):
        return REGISTRY.create(name_or_strategy)
    if isinstance(name_or_strategy, type) and issubclass(name_or_strategy, Strategy):
        raise UsageError(f"{name_or_strategy.__name__} is a class; pass {name_or_strategy.__name__}() or its name")
    if not isinstance(name_or_strategy, Strategy):
        raise UsageError(f"pass a strategy or its name, such as 'random'; this is {describe(name_or_strategy)}")
    return name_or_strategy


def describe(value: object) -> str:
    """A value in one line: type and shape of a tensor or array, else type and text."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__module__.partition('.')[0]} {type(value).__name__} {tuple(shape)}"
    return f"{type(value).__name__} {str(value)[:40]!r}"


def make_grid(images: object, patch_size: object) -> Grid:
    """The patches of the images.

    Raises:
        UsageError: The images are no batch of floating-point images, or do not divide into patches of this size.
    """
    _ensure_tensor("images", images)
    assert isinstance(images, Tensor)
    if images.ndim != 4:
        hint = "; add a dimension: images[None]" if images.ndim == 3 else ""
        raise UsageError(f"images must be (B, C, H, W), is {tuple(images.shape)}{hint}")
    if not images.is_floating_point():
        raise UsageError(f"images must be normalised floats, is {images.dtype}; e.g. (images / 255 - mean) / std")
    if 0 in images.shape:
        raise UsageError(f"images is {tuple(images.shape)}: there is nothing in it; pass at least one image")
    patch = whole_number("patch_size", patch_size, 1)
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        raise UsageError(
            f"images of {height}x{width} do not divide into patches of {patch}; choose another patch_size, or resize"
        )
    return Grid.of(images, patch)


def _ensure_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        remedy = f"torch.from_numpy({name})" if type(value).__module__ == "numpy" else f"torch.as_tensor({name})"
        raise UsageError(f"{name} must be a torch tensor, is {describe(value)}; e.g. {remedy}")


def whole_number(name: str, value: Any, least: int) -> int:
    """The value as an int. UsageError where it is none, or below `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise UsageError(f"{name} must be a whole number, {least} or more, is {value!r}")
    return number


def share(name: str, value: Any) -> float:
    """The value as a float. UsageError where it is no number in [0, 1]."""
    number = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    if isinstance(number, bool) or not isinstance(number, Real) or not 0 <= float(number) <= 1 or math.isnan(number):
        raise UsageError(f"{name} is the share of the training done: a number from 0 to 1, is {value!r}")
    return float(number)


def number_images(images: Tensor, index: object) -> Tensor:
    """(B,) int64 on the images' device: the numbers of the images, from 0 if there is no `index`.

    Raises:
        UsageError: They have another shape or type.
    """
    if index is None:
        return torch.arange(len(images), device=images.device)
    expected = f"index must be ({len(images)},) int64, is"
    if not isinstance(index, Tensor):
        raise UsageError(f"{expected} {describe(index)}; e.g. torch.tensor(index)")
    if index.shape != (len(images),) or index.dtype != torch.int64:
        raise UsageError(f"{expected} {describe(index)}")
    return index.to(images.device)


def ensure_signals_fit(strategy: Strategy, images: Tensor, grid: Grid, signals: Mapping[str, object]) -> None:
    """UsageError for a signal that is missing, no signal, no tensor, or of another shape, type or device than the
    images call for."""
    for name in signals.keys() - SIGNALS.keys():
        raise UsageError(f"{name!r} is no signal; signals: {', '.join(SIGNALS)}")
    needed = strategy.needs | ({"source"} if strategy.source_scale > 1 else set())
    for name in sorted(needed - signals.keys()):
        raise UsageError(f"{strategy.name} needs {name}=..., a tensor: {SIGNALS[name]}")
    for name, value in signals.items():
        _ensure_tensor(name, value)
        assert isinstance(value, Tensor)
        if value.device != images.device:
            raise UsageError(f"{name} is on {value.device}, the images on {images.device}; move one of the two")
        if name == "source":
            _ensure_source_fits(strategy, images, value)
        else:
            _ensure_token_signal_fits(name, value, images, grid)


def _ensure_token_signal_fits(name: str, value: Tensor, images: Tensor, grid: Grid) -> None:
    dimensions, shape = DIMENSIONS[name], (len(images), grid.size)
    if name != "parts" and not value.is_floating_point():
        raise UsageError(f"{name} must be floats, is {value.dtype}; e.g. {name}.float()")
    if value.ndim == dimensions and value.shape[:2] == shape:
        return
    wanted = f"({shape[0]}, {shape[1]}{', D' * (dimensions - 2)})"
    has_class_token = value.ndim == dimensions and value.shape[:2] == (shape[0], shape[1] + 1)
    hint = f"; leave out the class token: {name}[:, 1:]" if has_class_token else ""
    raise UsageError(f"{name} must be {wanted}, a row for each image and one entry a patch ({grid.rows}x{grid.cols}), "
                     f"is {tuple(value.shape)}{hint}")  # fmt: skip


def _ensure_source_fits(strategy: Strategy, images: Tensor, source: Tensor) -> None:
    if strategy.source_scale <= 1:
        return  # a strategy that needs none does not look at it
    batch, channels, height, width = images.shape
    top, left = source_margin((height, width), strategy.source_scale)
    wanted = (batch, channels, height + 2 * top, width + 2 * left)
    if tuple(source.shape) != wanted:
        raise UsageError(
            f"source must be {wanted} for {strategy.name}: {top} rows and {left} columns around the images on each "
            f"side; is {tuple(source.shape)}"
        )
    if source.dtype != images.dtype:
        raise UsageError(f"source is {source.dtype}, the images {images.dtype}; convert one of the two")


def ensure_module(module: object) -> None:
    """UsageError where the module is neither None nor a module."""
    if module is not None and not isinstance(module, nn.Module):
        raise UsageError(f"module must be what the strategy's build returned, a module or None, is {describe(module)}")
