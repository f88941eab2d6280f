"""Parquet files as Hugging Face datasets writes them: a column of images, perhaps one of labels.

A row of a Parquet file cannot be reached alone: its whole row group, up to a million rows, would have to be read and
decompressed. So the images are copied once, in order, into one plain file.
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

from maskbench.data.encoded_images import EncodedImages, EncodedImageWriter
from maskbench.data.image_source import EncodedDataset, find_labelled_splits
from maskbench.errors import UsageError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
BATCH_ROWS = 64  # read at a time


def read_parquet(root: Path, files_by_split: dict[str, list[Path]], unpacked: Path) -> EncodedDataset:
    """Copy the images of each split that has labels into `unpacked`; where train has none, those of train alone.

    Args:
        root: The data set's folder, for messages.
        files_by_split: Parquet files by split, in order.
        unpacked: The file to write to.

    Raises:
        UsageError: A file cannot be read, or a row has no image or label. The message names it.
    """
    schemas = {file: _open(file).schema_arrow for files in files_by_split.values() for file in files}
    labelled, writer = _find_labelled_splits(root, files_by_split, schemas), EncodedImageWriter(unpacked)

    def copy_images(split: str, label_numbers: dict[Any, int] | None) -> EncodedImages:
        return writer.write_split(
            row for file in files_by_split[split] for row in _read_rows(root, file, label_numbers)
        )

    if "train" in files_by_split and "train" not in labelled:
        return EncodedDataset({"train": copy_images("train", None)}, ())
    with_labels = {file: schemas[file] for split in labelled for file in files_by_split[split]}
    names, label_numbers = _number_labels(with_labels) if labelled else ((), {})
    return EncodedDataset({split: copy_images(split, label_numbers) for split in labelled}, names)


def _find_labelled_splits(
    root: Path, files_by_split: dict[str, list[Path]], schemas: dict[Path, pyarrow.Schema]
) -> list[str]:
    if not any(set(LABEL_COLUMNS) & set(schema.names) for schema in schemas.values()):
        return []
    negative = {split: torch.cat([_negative_labels(file) for file in files]) for split, files in files_by_split.items()}
    return find_labelled_splits(root, negative)


def _negative_labels(file: Path) -> Tensor:
    """(N,) bool: which labels are negative numbers."""
    labels = _read_labels(file)
    if not (pyarrow.types.is_integer(labels.type) or pyarrow.types.is_floating(labels.type)):
        return torch.zeros(len(labels), dtype=torch.bool)
    return torch.tensor(pyarrow.compute.less(labels, 0).fill_null(False).to_numpy())


def _read_labels(file: Path) -> pyarrow.ChunkedArray:
    parquet_file = _open(file)
    column = find_column(file, parquet_file.schema_arrow.names, LABEL_COLUMNS)
    try:
        return parquet_file.read([column])[column]
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file, error) from None


def _open(file: Path) -> Any:
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file, error) from None


def _read_error(file: Path, error: Exception) -> UsageError:
    return UsageError(f"cannot read {file}: {str(error).splitlines()[0]}; download or write it again")


def _number_labels(schemas: dict[Path, pyarrow.Schema]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The names of the classes, and the number of each label value."""
    first = next(iter(schemas))
    names = _class_names(schemas[first], find_column(first, schemas[first].names, LABEL_COLUMNS))
    if names is not None:
        return tuple(names), {number: number for number in range(len(names))}
    values: set[Any] = set()
    for file in schemas:
        values |= set(_read_labels(file).unique().to_pylist()) - {None}
    label_numbers = {value: number for number, value in enumerate(sorted(values))}
    return tuple(map(str, label_numbers)), label_numbers


def _class_names(schema: pyarrow.Schema, label: str) -> list[str] | None:
    """The class names that Hugging Face datasets stores for the column `label`, if any."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names")
    return list(names) if names else None


def _read_rows(root: Path, file: Path, label_numbers: dict[Any, int] | None) -> Iterator[tuple[str, int, bytes]]:
    """Name, label and encoded image of each row; without `label_numbers` every label is 0."""
    parquet_file = _open(file)
    image = find_column(file, parquet_file.schema_arrow.names, IMAGE_COLUMNS)
    columns = [image]
    if label_numbers is not None:
        columns.append(find_column(file, parquet_file.schema_arrow.names, LABEL_COLUMNS))
    number = 0
    try:
        for batch in parquet_file.iter_batches(BATCH_ROWS, columns=columns):
            labels = [0] * len(batch) if label_numbers is None else batch[columns[1]].to_pylist()
            for encoded, label in zip(batch[image].to_pylist(), labels, strict=True):
                name, number = f"row {number} of {file.relative_to(root)} in {root}", number + 1
                content = encoded["bytes"] if isinstance(encoded, dict) else encoded
                if content is None or label is None:
                    raise UsageError(f"{name} has no {'image' if content is None else 'label'}; remove it")
                if label_numbers is not None and label not in label_numbers:
                    raise UsageError(
                        f"{name} has the label {label}, but only {len(label_numbers)} classes have names; correct it"
                    )
                yield name, label if label_numbers is None else label_numbers[label], content
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file, error) from None


def find_column(source: Path | str, columns: list[str], names: tuple[str, ...]) -> str:
    """The first of `names` that is among the columns of `source`. UsageError where none is."""
    for name in names:
        if name in columns:
            return name
    raise UsageError(f"{source} has no column {names[0]!r}; its columns are {', '.join(columns)}")
