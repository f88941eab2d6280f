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

from maskbench.data.encoded import Encoded, Flat
from maskbench.errors import UsageError

PICTURES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
ROWS = 64  # read at a time


def read(root: Path, parts: dict[str, list[Path]], flat: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Each split of its files, unpacked into `flat`, and the class names; without a column of labels, train alone and
    no classes. UsageError that names the file or the row for what is no such data set."""
    schemas = {file: _opened(file).schema_arrow for files in parts.values() for file in files}
    labelled = any(set(LABELS) & set(schema.names) for schema in schemas.values())
    names, number_of = _classes(schemas) if labelled else ((), {})
    unpacked = Flat(flat)
    splits = {}
    for split, files in parts.items():
        if labelled or split == "train":
            rows = (row for file in files for row in _rows(root, file, number_of if labelled else None))
            splits[split] = unpacked.split(rows)
    return splits, names


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
    for file, schema in schemas.items():
        column = column_of(file, schema.names, LABELS)
        values |= set(pyarrow.parquet.read_table(file, columns=[column])[column].unique().to_pylist()) - {None}
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
                yield where, label if number_of is None else number_of[label], content
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def column_of(source: Path | str, columns: list[str], names: tuple[str, ...]) -> str:
    """The first of `names` that is among the columns of `source`. UsageError where none is."""
    for name in names:
        if name in columns:
            return name
    raise UsageError(f"{source} has no column {names[0]!r}; its columns are {', '.join(columns)}")
