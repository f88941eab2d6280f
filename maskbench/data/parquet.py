"""Parquet files as Hugging Face datasets writes them: a column of images, perhaps one of labels.

A row of a Parquet file cannot be reached alone: its whole row group, up to a million rows, would have to be read and
decompressed. So rows are unpacked once, in order, into a flat file.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from torch import Tensor

from maskbench.data.encoded_images import Encoded, Flat, labelled
from maskbench.errors import UsageError

PICTURES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
ROWS = 64  # read at a time


def read(root: Path, parts: dict[str, list[Path]], flat: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Each split that has labels, of its files, unpacked into `flat`, and the class names; where train has none, train
    alone and no classes. UsageError that names the file or the row for what is no such data set."""
    schemas = {file: _opened(file).schema_arrow for files in parts.values() for file in files}
    known, unpacked = _labelled(root, parts, schemas), Flat(flat)

    def unpack(split: str, number_of: dict[Any, int] | None) -> Encoded:
        return unpacked.split(row for file in parts[split] for row in _rows(root, file, number_of))

    if "train" in parts and "train" not in known:
        return {"train": unpack("train", None)}, ()
    with_labels = {file: schemas[file] for split in known for file in parts[split]}
    names, number_of = _classes(with_labels) if known else ((), {})
    return {split: unpack(split, number_of) for split in known}, names


def _labelled(root: Path, parts: dict[str, list[Path]], schemas: dict[Path, pyarrow.Schema]) -> list[str]:
    if not any(set(LABELS) & set(schema.names) for schema in schemas.values()):
        return []
    return labelled(root, {split: torch.cat([_hidden(file) for file in files]) for split, files in parts.items()})


def _hidden(file: Path) -> Tensor:
    """(N,) bool: which labels are negative numbers."""
    labels = _labels(file)
    if not (pyarrow.types.is_integer(labels.type) or pyarrow.types.is_floating(labels.type)):
        return torch.zeros(len(labels), dtype=torch.bool)
    return torch.tensor(pyarrow.compute.less(labels, 0).fill_null(False).to_numpy())


def _labels(file: Path) -> pyarrow.ChunkedArray:
    opened = _opened(file)
    column = column_of(file, opened.schema_arrow.names, LABELS)
    try:
        return opened.read([column])[column]
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _opened(file: Path) -> Any:
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UsageError:
    return UsageError(f"cannot read {file}: {str(error).splitlines()[0]}; download or write it again")


def _classes(schemas: dict[Path, pyarrow.Schema]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The names of the classes, and the number of each label."""
    first = next(iter(schemas))
    names = class_names(schemas[first], column_of(first, schemas[first].names, LABELS))
    if names is not None:
        return tuple(names), {number: number for number in range(len(names))}
    values: set[Any] = set()
    for file in schemas:
        values |= set(_labels(file).unique().to_pylist()) - {None}
    number_of = {value: number for number, value in enumerate(sorted(values))}
    return tuple(map(str, number_of)), number_of


def class_names(schema: pyarrow.Schema, label: str) -> list[str] | None:
    """What Hugging Face datasets notes of the column `label`."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = about.get("info", {}).get("features", {}).get(label, {}).get("names")
    return list(names) if names else None


def _rows(root: Path, file: Path, number_of: dict[Any, int] | None) -> Iterator[tuple[str, int, bytes]]:
    """Name, label and encoded image of each row; without `number_of` every label is 0."""
    opened = _opened(file)
    image = column_of(file, opened.schema_arrow.names, PICTURES)
    columns = [image] if number_of is None else [image, column_of(file, opened.schema_arrow.names, LABELS)]
    number = 0
    try:
        for batch in opened.iter_batches(ROWS, columns=columns):
            labels = [0] * len(batch) if number_of is None else batch[columns[1]].to_pylist()
            for encoded, label in zip(batch[image].to_pylist(), labels, strict=True):
                where, number = f"row {number} of {file.relative_to(root)} in {root}", number + 1
                content = encoded["bytes"] if isinstance(encoded, dict) else encoded
                if content is None or label is None:
                    raise UsageError(f"{where} has no {'image' if content is None else 'label'}; remove it")
                if number_of is not None and label not in number_of:
                    raise UsageError(f"{where} has the label {label}, but {len(number_of)} classes are named; mend it")
                yield where, label if number_of is None else number_of[label], content
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def column_of(source: Path | str, columns: list[str], names: tuple[str, ...]) -> str:
    """The first of `names` that is among the columns of `source`. UsageError where none is."""
    for name in names:
        if name in columns:
            return name
    raise UsageError(f"{source} has no column {names[0]!r}; its columns are {', '.join(columns)}")
