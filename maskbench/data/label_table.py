"""Labels, splits and groups of image files in a CSV table beside them."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.file_listing import FileListing, list_files, summarise
from maskbench.data.image_source import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    EncodedDataset,
    ImageSource,
    select_splits,
)
from maskbench.data.splits import VALIDATION_SHARE, stratified_order
from maskbench.errors import UsageError, unknown_name
from maskbench.runtime.regular_files import MIB, read_regular

EXPECTED = "rows of the splits train and test"
MAX_BYTES = 256 * MIB
MAX_NAMED = 3  # of files, groups and the like in a message


@dataclass(frozen=True)
class LabelTable:
    """Where labels are.

    Attributes:
        path: A CSV file with a heading.
        file: The column of file names, relative to the data set's folder.
        label: The column of labels.
        split: The column of splits: train, validation (or val), test.
        group: The column of groups, such as patients; None where there is none.
    """

    path: str
    file: str = "file"
    label: str = "label"
    split: str = "split"
    group: str | None = None


def make_table(
    path: str, file: str | None = None, label: str | None = None, split: str | None = None, group: str | None = None
) -> LabelTable:
    """A table with the columns that are named; the column `group` counts also where nobody names it."""
    if group is None and "group" in _read_heading(Path(path)):
        group = "group"
    return LabelTable(path, file or "file", label or "label", split or "split", group)


def _read_heading(path: Path) -> list[str]:
    return list(_read_lines(path)[0])


def _read_lines(path: Path) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """The heading, and each line with its number, as an editor counts. UsageError where it is no CSV file."""
    try:
        text = read_regular(path, MAX_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        return reader.fieldnames or (), [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the labels {path}: {reason}; give a CSV file in UTF-8 with a heading") from None


@dataclass(frozen=True)
class _Row:
    """A line of the table. number: as an editor counts."""

    number: int
    file: str
    label: str
    split: str
    group: str


def find_source(root: Path, table: LabelTable) -> ImageSource:
    """The images below `root` that the table names, with its labels and splits.

    A split of its own for choices is made of whole groups where there are groups and no validation rows: a tenth of the
    training images or a little more.

    Raises:
        UsageError: A column or a file is missing, a file is named twice, a group is in two splits, or labels are
            missing in part.
    """
    if not root.is_dir():
        raise UsageError(f"no folder {root}: --labels names files below the folder of --dataset")
    rows = _read_rows(table)
    listing = list_files(root, IMAGE_SUFFIXES)
    _ensure_sound(root, table, rows, listing)
    left_out = Counter(listing.left_out)
    left_out["image files that the table does not name"] += len(listing.files) - len(rows)
    content = hashlib.sha256(read_regular(table.path, MAX_BYTES)).hexdigest()
    columns = [table.file, table.label, table.split, table.group]
    key = {"root": str(root.resolve()), "files": listing.key, "table": content, "columns": columns}

    def read(_: Path) -> EncodedDataset:
        return select_splits(root, _to_dataset(root, rows), EXPECTED)

    return ImageSource(root.resolve().name, key, read, summarise(left_out), lambda: f"fill the column {table.label}")


def _read_rows(table: LabelTable) -> list[_Row]:
    path = Path(table.path)
    names, lines = _read_lines(path)
    wanted = [table.file, table.label, table.split, *([table.group] if table.group else [])]
    for name in wanted:
        if name not in names:
            raise unknown_name(f"column of {path}", name, list(names))
    if not lines:
        raise UsageError(f"{path} has a heading and no rows; add a row for each image")
    rows = []
    for number, line in lines:
        short = [name for name in wanted if line[name] is None]
        if short:
            raise UsageError(f"line {number} of {path} has no {short[0]}: it has fewer fields than the heading")
        split = SPLIT_NAMES.get(line[table.split].strip().lower())
        if split is None:
            raise UsageError(f"line {number} of {path}: {table.split} should be train, validation or test")
        group = line[table.group].strip() if table.group else ""
        rows.append(_Row(number, Path(line[table.file].strip()).as_posix(), line[table.label].strip(), split, group))
    return rows


def _ensure_sound(root: Path, table: LabelTable, rows: Sequence[_Row], listing: FileListing) -> None:
    by_file: dict[str, _Row] = {}
    for row in rows:
        first = by_file.setdefault(row.file, row)
        if first is not row:
            raise UsageError(f"lines {first.number} and {row.number} of {table.path} both name {row.file}; drop one")
    there = {file.as_posix() for file in listing.files}
    missing = [row for row in rows if row.file not in there]
    if missing:
        named = ", ".join(f"{row.file} (line {row.number})" for row in missing[:MAX_NAMED])
        raise UsageError(
            f"{len(missing)} files of {table.path} are no images below {root}: {named}; names are relative to it"
        )
    empty = [row for row in rows if not row.label]
    if empty and len(empty) < len(rows):
        raise UsageError(
            f"{len(empty)} rows of {table.path} have no {table.label}, the first in line {empty[0].number}; label "
            f"them, or drop them"
        )
    splits_of: dict[str, set[str]] = {}
    for row in rows if table.group else ():
        splits_of.setdefault(row.group, set()).add(row.split)
    crossing = {group: splits for group, splits in splits_of.items() if len(splits) > 1}
    if crossing:
        named = ", ".join(f"{group} ({', '.join(sorted(own))})" for group, own in list(crossing.items())[:MAX_NAMED])
        raise UsageError(
            f"{len(crossing)} groups of {table.path} are in several splits: {named}; what a model has seen of a "
            f"{table.group} it would recognise in test; move each to one split"
        )


def _to_dataset(root: Path, rows: Sequence[_Row]) -> EncodedDataset:
    classes = _sort_labels({row.label for row in rows if row.label})
    numbers = {name: number for number, name in enumerate(classes)}
    by_split: dict[str, list[_Row]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    has_groups = any(row.group for row in by_split.get("train", ()))
    if has_groups and "test" in by_split and "validation" not in by_split:
        by_split["train"], by_split["validation"] = hold_out_groups(by_split["train"], numbers)
    splits = {
        split: EncodedImages.from_files(
            [root / row.file for row in own], [row.file for row in own], [numbers.get(row.label, -1) for row in own]
        )
        for split, own in by_split.items()
    }
    return EncodedDataset(splits, classes)


def hold_out_groups(rows: Sequence[_Row], numbers: dict[str, int]) -> tuple[list[_Row], list[_Row]]:
    """The rows to train on, and those held out: whole groups, taken in the stratified order of their first images until
    a tenth of the images is reached. UsageError for a single group."""
    labels = torch.tensor([numbers.get(row.label, 0) for row in rows])
    held: set[str] = set()
    count, sizes = 0, Counter(row.group for row in rows)
    if len(sizes) < 2:
        raise UsageError("all training images are of one group: none can be held out; mark some rows as validation")
    for place in stratified_order(labels).tolist():
        if count >= VALIDATION_SHARE * len(rows):
            break
        group = rows[place].group
        if group not in held and len(held) < len(sizes) - 1:
            held.add(group)
            count += sizes[group]
    return [row for row in rows if row.group not in held], [row for row in rows if row.group in held]


def _sort_labels(labels: set[str]) -> tuple[str, ...]:
    """By value where all are whole numbers, else by name. UsageError for other numbers, which name no classes."""
    try:
        numbers = {label: float(label) for label in labels}
    except ValueError:
        return tuple(sorted(labels))
    broken = next((label for label, number in sorted(numbers.items()) if not number.is_integer()), None)
    if broken is not None:
        raise UsageError(f"the label {broken} is no class; predicting numbers is not supported, so name classes")
    return tuple(sorted(labels, key=lambda label: numbers[label]))
