"""All images of a data set that cannot be read, named at once."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_source import EncodedDataset
from maskbench.errors import UsageError
from maskbench.runtime.cpu import map_in_threads

MAX_NAMED = 5  # images in the message; a file has all
SMALL = (8, 8, 3)  # rows, columns, channels: large JPEGs are decoded in a fraction of the time


@contextmanager
def name_all_damaged(dataset: EncodedDataset) -> Iterator[None]:
    """Where an image of the data set cannot be read, look for others, and name them all in one UsageError."""
    try:
        yield
    except UsageError as error:
        reasons = [reason for _, images in sorted(dataset.splits.items()) for reason in _find_reasons(images)]
        if len(reasons) < 2:
            raise
        listed = "; ".join(reasons[:MAX_NAMED])
        more = "" if len(reasons) <= MAX_NAMED else f"; and {len(reasons) - MAX_NAMED} more, all in {_write(reasons)}"
        raise UsageError(f"{len(reasons)} images cannot be used: {listed}{more}") from error


def _find_reasons(images: EncodedImages) -> list[str]:
    """Why images cannot be read, in order; no other image is listed."""

    def find_reason(index: int) -> str | None:
        try:
            images.decode(index, SMALL)
        except UsageError as error:
            return str(error)
        return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [reason for reason in map_in_threads(find_reason, len(images)) if reason is not None]


def _write(reasons: list[str]) -> str:
    handle, path = tempfile.mkstemp(prefix="maskbench-damaged-", suffix=".txt")
    with os.fdopen(handle, "w", errors="surrogateescape") as file:
        file.write("".join(f"{reason}\n" for reason in reasons))
    return path
