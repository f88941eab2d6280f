"""hfds/NAME: what the Hugging Face library `datasets` keeps on this machine, by name or as a folder.

The library keeps data as Arrow files, in which the bytes of each image lie in one piece. Once their positions are
known, images are read without the library. A run never downloads anything.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch

from maskbench.data.arrow_columns import class_names, find_image_column, find_label_column, match_classes
from maskbench.data.classes import number_classes
from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_source import SPLIT_NAMES, EncodedDataset, ImageSource, select_splits
from maskbench.data.parquet import read_schema
from maskbench.data.string_table import StringTable
from maskbench.errors import UsageError
from maskbench.runtime.regular_files import ensure_regular

EXPECTED = "a split called train, and one called test or validation"


def find_source(name: str, data_dir: str | None, label_column: str | None = None) -> ImageSource:
    """The data set `name`, without hfds/. UsageError with the remedy where it, or the library, is not there."""
    if Path(name).is_dir():
        _ensure_one_order_of_classes(Path(name), label_column)
    splits = open_splits(name, data_dir)
    key = {"hub": name, "files": _stamp_files(splits), "label_column": label_column}
    root = Path(f"hfds/{name}")

    def read(_: Path) -> EncodedDataset:
        return select_splits(root, _read_splits(name, splits, label_column), EXPECTED)

    def explain() -> str:
        rows = splits.get("train") or next(iter(splits.values()))
        return f"its columns are {', '.join(_schema(rows).names)}: name that of the labels with --label-column"

    return ImageSource(Path(name).name, key, read, explain_labels=explain)


def open_splits(name: str, data_dir: str | None, *, download: bool = False) -> dict[str, Any]:
    """Open the library's own data sets, by split.

    Args:
        name: As the library knows it, or a folder.
        data_dir: The library's cache folder. Default: its own choice.
        download: Fetch missing files first.

    Raises:
        UsageError: The library is not installed, or the data set is not there or cannot be downloaded.
    """
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not download:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported; else it tries the network many times
    try:
        import datasets
    except ImportError:
        raise UsageError("hfds/... needs the library datasets: pip install 'maskbench[hfds]'") from None
    local = datasets.DownloadConfig(local_files_only=not download)
    try:
        return dict(datasets.load_dataset(name, cache_dir=data_dir, download_config=local))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        if download:
            raise UsageError(f"cannot download hfds/{name}: {reason}") from None
        where = data_dir or "the cache of datasets"
        raise UsageError(
            f"hfds/{name} is not in {where} ({reason}): add --download to `maskbench run`, or give a folder"
        ) from None


def _stamp_files(splits: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    """(split, path, bytes, modification time in ns) of each Arrow file, and of each image that lies in its own file."""
    files = [(split, Path(file["filename"])) for split, rows in splits.items() for file in rows.cache_files]
    stamped = list(files)
    for split, arrow in [(split, arrow) for split, arrow in files if split in SPLIT_NAMES]:
        for batch, _ in _map_batches(str(arrow)):
            images = batch[find_image_column(arrow, batch.schema)]
            if pyarrow.types.is_struct(images.type):
                rows_without_bytes = images.filter(images.field("bytes").is_null())
                stamped += [(split, _image_file(path)) for path in rows_without_bytes.field("path").to_pylist() if path]
    return sorted((split, str(path), *_stamp(path)) for split, path in stamped)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
        ensure_regular(status, path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; bring it back") from None
    return status.st_size, status.st_mtime_ns


def _image_file(path: str) -> Path:
    """Where the library would look for the image, from any working directory that a process may have later."""
    return Path(path).absolute()


def _read_splits(name: str, all_splits: dict[str, Any], label_column: str | None = None) -> EncodedDataset:
    """Every split of a known name; without a column of labels the training split alone."""
    known = [split for split in all_splits if split in SPLIT_NAMES]
    found = {SPLIT_NAMES[split]: all_splits[split] for split in known}
    if len(found) < len(known):
        raise UsageError(
            f"hfds/{name} has several splits of one kind: {', '.join(known)}; give a folder with one of each"
        )
    for split, rows in found.items():
        if not sum(batch.num_rows for arrow in rows.cache_files for batch, _ in _map_batches(arrow["filename"])):
            raise UsageError(f"the split {split} of hfds/{name} has no rows; give a folder without it")
    labels = {split: find_label_column(f"hfds/{name}", _schema(rows), label_column) for split, rows in found.items()}
    if not any(labels.values()):
        train = {split: _read_split(name, split, rows, None) for split, rows in found.items() if split == "train"}
        return EncodedDataset(train, ())
    for split, column in labels.items():
        if column is None:
            listed = ", ".join(_schema(found[split]).names)
            raise UsageError(f"the split {split} of hfds/{name} has no column of labels; its columns are {listed}")
    splits = {split: _read_split(name, split, rows, labels[split]) for split, rows in found.items()}
    return _match_labels(name, splits, {split: _feature_names(found[split], labels[split]) for split in splits})


def _schema(rows: Any) -> pyarrow.Schema:
    file = rows.cache_files[0]["filename"]
    try:
        ensure_regular(Path(file).stat(), file)
        return pyarrow.ipc.open_stream(pyarrow.memory_map(file)).schema
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file, error) from None


def _feature_names(rows: Any, column: str | None) -> tuple[str, ...] | None:
    names = getattr(rows.features[column], "names", None)
    return tuple(names) if names else None


def _match_labels(
    name: str, splits: dict[str, EncodedImages], names: dict[str, tuple[str, ...] | None]
) -> EncodedDataset:
    """The splits with labels in the order of the training split's classes; negative labels stay."""
    order = sorted(splits, key=lambda split: split != "train")
    known, numbers = match_classes({split: names[split] for split in order}, dict.fromkeys(splits, "numbers"))
    if known is None:
        largest = max(int(images.labels.max()) for images in splits.values())
        return EncodedDataset(splits, number_classes(Path(f"hfds/{name}"), largest + 1))
    matched = {}
    for split, images in splits.items():
        values = images.labels.unique().tolist()
        unnamed = [value for value in values if value >= 0 and value not in numbers[split]]
        if unnamed:
            raise UsageError(
                f"the split {split} of hfds/{name} has the label {unnamed[0]}, whose class train does not name; "
                f"correct it"
            )
        labels = images.labels.clone()
        for value in values:
            labels[images.labels == value] = numbers[split].get(value, value)
        matched[split] = replace(images, labels=labels)
    return EncodedDataset(matched, known)


def _ensure_one_order_of_classes(folder: Path, label_column: str | None) -> None:
    """UsageError where Parquet files order their classes differently: the library reads the names of the first only."""
    names = {}
    for file in sorted(folder.rglob("*.parquet")):
        schema = read_schema(file)
        label = find_label_column(file, schema, label_column)
        names[file.name] = class_names(schema, label) if label is not None else None
    if len(set(names.values())) > 1:
        raise UsageError(
            f"the files in {folder} order their classes differently, which the library datasets does not notice; give "
            f"the folder as a path, without hfds/"
        )


def _read_split(name: str, split: str, rows: Any, label: str | None) -> EncodedImages:
    """Where the split's Arrow files keep the images. Rows that hold only a path point to files of their own."""
    image = find_image_column(f"hfds/{name}", _schema(rows))
    files: list[str] = []
    positions, labels = [], []
    for arrow in rows.cache_files:
        arrow_index = len(files)
        files.append(arrow["filename"])
        for batch, base in _map_batches(arrow["filename"]):
            positions.append(_locate_images(batch[image], base, arrow_index, files))
            labels.append(_read_labels(batch, label, name))
    file, start, size = (torch.from_numpy(column) for column in np.concatenate(positions).T.copy())
    names = (f"row {row} of hfds/{name} {split}" for row in range(len(file)))
    return EncodedImages(
        torch.from_numpy(np.concatenate(labels)),
        StringTable.from_strings(names),
        StringTable.from_strings(files),
        file,
        start,
        size,
    )


def _read_labels(batch: pyarrow.RecordBatch, column: str | None, name: str) -> np.ndarray:
    """(rows,) int64; zeros without a column."""
    if column is None:
        return np.zeros(len(batch), np.int64)
    if not pyarrow.types.is_integer(batch[column].type) or batch[column].null_count:
        raise UsageError(f"the column {column} of hfds/{name} should hold a number for each; cast it to ClassLabel")
    return batch[column].to_numpy(zero_copy_only=False).astype(np.int64)


def _map_batches(file: str) -> Iterator[tuple[pyarrow.RecordBatch, int]]:
    """The record batches of a memory-mapped Arrow file, and the address of the file's first byte."""
    try:
        ensure_regular(Path(file).stat(), file)
        mapped = pyarrow.memory_map(file)
        base = mapped.read_buffer().address
        mapped.seek(0)
        yield from ((batch, base) for batch in pyarrow.ipc.open_stream(mapped))
    except (pyarrow.ArrowException, OSError) as error:
        raise _read_error(file, error) from None


def _read_error(file: str, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
    return UsageError(f"cannot read {file}: {reason}; remove it, and download the data again")


def _locate_images(images: pyarrow.StructArray, base: int, arrow_index: int, files: list[str]) -> np.ndarray:
    """(rows, 3) int64: the file's index in `files`, start and size in bytes of each image.

    The file is number `arrow_index`, or, for a row that holds only a path, one that is added to `files`.
    """
    content = images.field("bytes") if pyarrow.types.is_struct(images.type) else images
    _, ends, data = content.buffers()
    integer = np.int64 if pyarrow.types.is_large_binary(content.type) else np.int32
    ends = np.frombuffer(ends, integer)[content.offset : content.offset + len(content) + 1].astype(np.int64)
    start = ends[:-1] + (data.address - base if data else 0)
    positions = np.stack([np.full(len(content), arrow_index), start, np.diff(ends)], 1)
    for row in np.flatnonzero(positions[:, 2] == 0):
        path = images.field("path")[int(row)].as_py() if content is not images else None
        if not path:
            raise UsageError(f"an image in {files[positions[row, 0]]} has neither bytes nor a path; remove it")
        positions[row] = len(files), 0, -1
        files.append(str(_image_file(path)))
    return positions
