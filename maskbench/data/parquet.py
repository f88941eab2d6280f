"""Parquet files as Hugging Face datasets writes them: a column of images, perhaps one of labels.

A row of a Parquet file cannot be reached alone: its whole row group, up to a million rows, would have to be read and
decompressed. So the images are copied once, in order, into one plain file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from torch import Tensor

from maskbench.data.arrow_columns import (
    class_names,
    find_image_column,
    find_label_column,
    label_kind,
    match_classes,
)
from maskbench.data.encoded_images import EncodedImages, EncodedImageWriter
from maskbench.data.image_source import EncodedDataset, find_labelled_splits
from maskbench.errors import UsageError
from maskbench.runtime.regular_files import ensure_regular

BATCH_ROWS = 64  # read at a time


@dataclass(frozen=True)
class _File:
    """A Parquet file: where it is, its name in messages, its schema, and its column of labels, if any."""

    path: Path
    name: str
    schema: pyarrow.Schema
    label: str | None


@dataclass(frozen=True)
class _Classes:
    """The number of each label value, by file, and the names of the classes in order."""

    names: tuple[str, ...]
    numbers: dict[str, dict[Any, int]]


def read_parquet(
    root: Path, files_by_split: dict[str, list[Path]], unpacked: Path, label_column: str | None
) -> EncodedDataset:
    """Copy the images of each split that has labels into `unpacked`; where train has none, those of train alone.

    Args:
        root: The data set's folder, for messages.
        files_by_split: Parquet files by split, in order.
        unpacked: The file to write to.
        label_column: The column of labels. Default: the one with a usual name.

    Raises:
        UsageError: A file cannot be read, labels do not name classes, or a row has no image or label. The message names
            the file and the row.
    """
    for split, paths in files_by_split.items():
        if not sum(_open(path).metadata.num_rows for path in paths):
            raise UsageError(f"the split {split} of {root} has no rows; fill it, or remove its files")
    files = {split: [_describe(root, path, label_column) for path in paths] for split, paths in files_by_split.items()}
    labelled, writer = _find_labelled_splits(root, files), EncodedImageWriter(unpacked)

    def copy_images(split: str, classes: _Classes | None) -> EncodedImages:
        return writer.write_split(row for file in files[split] for row in _read_rows(root, file, classes))

    if "train" in files and "train" not in labelled:
        return EncodedDataset({"train": copy_images("train", None)}, ())
    if not labelled:
        return EncodedDataset({}, ())
    order = sorted(labelled, key=lambda split: split != "train")  # names are in the order of train
    classes = _number_labels([file for split in order for file in files[split]])
    return EncodedDataset({split: copy_images(split, classes) for split in labelled}, classes.names)


def read_schema(path: Path) -> pyarrow.Schema:
    """The columns of a Parquet file. UsageError where it cannot be read."""
    return _open(path).schema_arrow


def _describe(root: Path, path: Path, label_column: str | None) -> _File:
    schema = read_schema(path)
    find_image_column(path, schema)
    return _File(path, str(path.relative_to(root)), schema, find_label_column(path, schema, label_column))


def _find_labelled_splits(root: Path, files: dict[str, list[_File]]) -> list[str]:
    everything = [file for members in files.values() for file in members]
    with_labels = next((file for file in everything if file.label is not None), None)
    if with_labels is None:
        return []
    for file in everything:
        if file.label is None:
            raise UsageError(
                f"{file.path} has no column {with_labels.label!r}, which {with_labels.name} has; its columns are "
                f"{', '.join(file.schema.names)}"
            )
    negative = {split: torch.cat([_negative_labels(file) for file in members]) for split, members in files.items()}
    return find_labelled_splits(root, negative)


def _negative_labels(file: _File) -> Tensor:
    """(N,) bool: which labels are negative numbers. UsageError for numbers that are not whole."""
    labels = _read_labels(file)
    if not (pyarrow.types.is_integer(labels.type) or pyarrow.types.is_floating(labels.type)):
        return torch.zeros(len(labels), dtype=torch.bool)
    if pyarrow.types.is_floating(labels.type):
        broken = [value for value in labels.unique().to_pylist() if value is not None and value % 1 != 0]
        if broken:
            raise UsageError(f"the column {file.label} of {file.path} holds {broken[0]}; number the classes from 0")
    return torch.tensor(pyarrow.compute.less(labels, 0).fill_null(False).to_numpy())


def _read_labels(file: _File) -> pyarrow.ChunkedArray:
    try:
        return _open(file.path).read([file.label])[file.label]
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file.path, error) from None


def _open(file: Path) -> Any:
    try:
        ensure_regular(file.stat(), file)
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file, error) from None


def _read_error(file: Path, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    return UsageError(f"cannot read {file}: {reason}; download or write it again")


def _number_labels(files: list[_File]) -> _Classes:
    """Number the classes: by the names that the files give, matched between files, else by their sorted values."""
    labelled = [(file, file.label) for file in files if file.label is not None]
    names = {file.name: class_names(file.schema, label) for file, label in labelled}
    kinds = {file.name: label_kind(file.path, file.schema, label) for file, label in labelled}
    known, numbers = match_classes(names, kinds)
    if known is not None:
        return _Classes(known, numbers)
    values: set[Any] = set()
    for file in files:
        values |= set(_read_labels(file).unique().to_pylist()) - {None}
    by_value = {value: number for number, value in enumerate(sorted(values))}
    return _Classes(tuple(map(str, by_value)), dict.fromkeys(names, by_value))


def _read_rows(root: Path, file: _File, classes: _Classes | None) -> Iterator[tuple[str, int, bytes]]:
    """Name, label and encoded image of each row; without `classes` every label is 0."""
    columns = [find_image_column(file.path, file.schema)]
    if classes is not None and file.label is not None:
        columns.append(file.label)
    number = 0
    try:
        for batch in _open(file.path).iter_batches(BATCH_ROWS, columns=columns):
            labels = [0] * len(batch) if classes is None else batch[columns[1]].to_pylist()
            for encoded, label in zip(batch[columns[0]].to_pylist(), labels, strict=True):
                name, number = f"row {number} of {file.name} in {root}", number + 1
                content = _image_bytes(name, encoded)
                yield name, label if classes is None else _label_number(name, label, file, classes), content
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file.path, error) from None


def _image_bytes(name: str, encoded: Any) -> bytes:
    content = encoded["bytes"] if isinstance(encoded, dict) else encoded
    if content is None and isinstance(encoded, dict) and encoded.get("path"):
        raise UsageError(
            f"{name} has only the path {encoded['path']} of an image and not its bytes; write the files again with the "
            f"images embedded, or give a folder of them"
        )
    if content is None:
        raise UsageError(f"{name} has no image; remove it")
    return bytes(content)


def _label_number(name: str, label: Any, file: _File, classes: _Classes) -> int:
    if label is None:
        raise UsageError(f"{name} has no label; remove it")
    number = classes.numbers[file.name].get(label)
    if number is not None:
        return number
    own = class_names(file.schema, file.label or "") or ()
    if label in range(len(own)):
        raise UsageError(f"{name} is of the class {own[label]}, which the training files do not name; correct it")
    raise UsageError(f"{name} has the label {label}, but only {len(own)} classes have names; correct it")
