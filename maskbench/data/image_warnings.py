"""Pillow's warnings about images, each with the name of its image."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maskbench.data.string_table import StringTable


class CurrentImage(threading.local):
    """Which image a thread is reading."""

    names: StringTable | None = None
    index = 0


current_image = CurrentImage()


@contextmanager
def name_warned_images() -> Iterator[None]:
    """Within the block, which may start threads, collect warnings. At its end each is repeated once, with the image's
    name, or the first image's and how many there are."""
    images: dict[str, list[tuple[StringTable | None, int]]] = {}

    def collect(message: Warning | str, *_: Any, **__: Any) -> None:
        images.setdefault(str(message), []).append((current_image.names, current_image.index))

    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = collect
        yield
    current_image.names = None  # a warning below is about no image of this thread
    for message, found in images.items():
        names = sorted({table[index] for table, index in found if table is not None})
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        warnings.warn(f"{names[0]}{more}: {message}" if names else message, stacklevel=3)


@contextmanager
def ignore_repeated_warnings() -> Iterator[None]:
    """Within the block, say nothing about images that were named when their data set was prepared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
