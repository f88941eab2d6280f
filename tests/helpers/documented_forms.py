"""The tables of docs/data.md as tests: each row is built on disk, and must be read, said or refused as it states."""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskbench import data
from maskbench.data.splits import Images, Splits
from maskbench.errors import UsageError
from tests.helpers.image_files import png, write_folders, write_parquet

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
LABELS = [0, 0, 1, 1, 2, 2]  # of `folders`, which are read class by class
IN_ORDER = [0, 1, 2] * 2  # of `rows`


@dataclass(frozen=True)
class Form:
    """A data set in one documented form, and what should be read of it.

    Attributes:
        dataset: Its name or path.
        labels: Labels of the training images; None where they have none.
        test: Labels of the test images, where they are checked.
        pixels: (H, W, C) uint8 that the third training image should have.
        options: For `load_dataset`.
    """

    dataset: Path | str
    labels: list[int] | None = field(default_factory=lambda: LABELS)
    test: list[int] | None = None
    pixels: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)


Builder = Callable[[Path], Iterator[Form]]


def form(table: dict[str, Builder], name: str) -> Callable[[Builder], Builder]:
    """Decorator that makes a builder that of a row of a table."""
    return lambda build: table.setdefault(name, build)


def documented_rows(section: str) -> dict[str, tuple[str, str]]:
    """Outcome and line of each row of a section's table, by its first cell."""
    text = DOCS.read_text().partition(f"\n### {section}\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {name: (outcome, line.strip("`")) for name, outcome, line in rows[2:]}


def check_form(form: Form, outcome: str, line: str) -> None:
    """Load the data set, and compare with the row."""
    channels = form.options.get("channels", 3)
    options = {name: value for name, value in form.options.items() if name != "channels"}
    data.load_dataset.cache_clear()
    if outcome == "refused":
        with pytest.raises(UsageError, match=re.escape(line)) as caught:
            data.load_dataset(str(form.dataset), (12, 12), channels, **options)
        assert "\n" not in str(caught.value)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        splits = data.load_dataset(str(form.dataset), (12, 12), channels, **options)
    messages = " / ".join(str(warning.message) for warning in said)
    assert outcome == ("said" if messages else "read"), messages
    assert line in messages
    _check_content(form, splits)


def _check_content(form: Form, splits: Splits) -> None:
    if form.labels is None:
        assert splits.classes == () and len(splits.test) == 0
    else:
        assert splits.classes and splits.train.labels.tolist() == form.labels
    if form.test is not None:
        assert splits.test.labels.tolist() == form.test
    if form.pixels is not None:
        assert isinstance(splits.train, Images)
        found = splits.train.pixels[2].permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - form.pixels.reshape(found.shape)).max() <= 1


def folders(root: Path, *more: str) -> Path:
    """Six training and three test images of three classes."""
    for split, first, count in (("train", 0, 6), ("test", 50, 3), *((name, 50, 3) for name in more)):
        write_folders(root, split, first, count)
    return root


def rows(root: Path, **how: Any) -> Path:
    """The same as Parquet files. how: For `write_parquet`."""
    write_parquet(root / "train.parquet", 0, 6, **how)
    write_parquet(root / "test.parquet", 51, 3, **how)
    return root


def write(path: Path, content: bytes) -> None:
    """A file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_images(root: Path, names: list[str]) -> Path:
    """Pictures 0, 1, ... of these names."""
    for number, name in enumerate(names):
        write(root / name, png(number))
    return root


def check_rows(section: str, table: dict[str, Builder], name: str, root: Path) -> None:
    """Build and check every data set of a row."""
    outcome, line = documented_rows(section)[name]
    for built in table[name](root):
        check_form(built, outcome, line)
