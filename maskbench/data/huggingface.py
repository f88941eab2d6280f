"""hfds/NAME: what the library `datasets` of Hugging Face keeps, by its name or as a folder. Never fetched inside a run.

The library keeps data as Arrow files, in which the bytes of every image lie in one piece. Once it is known where, they
are read without it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch

from maskbench.data.encoded_images import Encoded
from maskbench.data.folders import SPLITS
from maskbench.data.parquet import LABELS, PICTURES, column_of
from maskbench.data.string_table import Texts
from maskbench.errors import UsageError

EXPECTED = "a split called train, and one called test or validation"


def opened(name: str, data_dir: str | None, *, download: bool = False) -> dict[str, Any]:
    """The library's own data sets by split. UsageError with the remedy where they, or the library, are not there."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not download:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported; it would ask the hub again and again
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


def listing(parts: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    """The Arrow files of each split: (split, path, bytes, modification time)."""
    files = ((split, Path(file["filename"])) for split, part in parts.items() for file in part.cache_files)
    return sorted((split, str(path), path.stat().st_size, path.stat().st_mtime_ns) for split, path in files)


def read(name: str, parts: dict[str, Any]) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Splits by name and the class names; without a column of labels train alone, and no classes."""
    parts = {SPLITS[split]: part for split, part in parts.items() if split in SPLITS}
    columns = next(iter(parts.values())).column_names if parts else []
    label = next((column for column in LABELS if column in columns), None)
    if label is None:
        return {split: _split(name, split, part, None) for split, part in parts.items() if split == "train"}, ()
    feature = next(iter(parts.values())).features[label]
    splits = {split: _split(name, split, part, label) for split, part in parts.items()}
    most = max(int(split.labels.max()) for split in splits.values())
    return splits, tuple(getattr(feature, "names", None) or map(str, range(most + 1)))


def _split(name: str, split: str, part: Any, label: str | None) -> Encoded:
    """Where its Arrow files keep the images; those that are only named there are files of their own."""
    image = column_of(f"hfds/{name}", part.column_names, PICTURES)
    files: list[str] = []
    places, labels = [], []
    for arrow in part.cache_files:
        number = len(files)
        files.append(arrow["filename"])
        for batch, base in _batches(arrow["filename"]):
            places.append(_places(batch[image], base, number, files))
            labels.append(_labels(batch, label, name))
    file, start, size = (torch.from_numpy(column) for column in np.concatenate(places).T.copy())
    names = (f"row {row} of hfds/{name} {split}" for row in range(len(file)))
    return Encoded(torch.from_numpy(np.concatenate(labels)), Texts.of(names), Texts.of(files), file, start, size)


def _labels(batch: pyarrow.RecordBatch, column: str | None, name: str) -> np.ndarray:
    if column is None:
        return np.zeros(len(batch), np.int64)
    if not pyarrow.types.is_integer(batch[column].type) or batch[column].null_count:
        raise UsageError(f"the column {column} of hfds/{name} should hold a number for each; cast it to ClassLabel")
    return batch[column].to_numpy(zero_copy_only=False).astype(np.int64)


def _batches(file: str) -> Iterator[tuple[pyarrow.RecordBatch, int]]:
    """The record batches of an Arrow file, mapped, and the address at which its first byte lies."""
    mapped = pyarrow.memory_map(file)
    base = mapped.read_buffer().address
    mapped.seek(0)
    for batch in pyarrow.ipc.open_stream(mapped):
        yield batch, base


def _places(images: pyarrow.StructArray, base: int, arrow: int, files: list[str]) -> np.ndarray:
    """(rows, 3) int64: file, start and size of each image; the file is `arrow`, or one that is added to `files`."""
    content = images.field("bytes")
    _, ends, data = content.buffers()
    wide = np.int64 if pyarrow.types.is_large_binary(content.type) else np.int32
    ends = np.frombuffer(ends, wide)[content.offset : content.offset + len(content) + 1].astype(np.int64)
    start = ends[:-1] + (data.address - base if data else 0)
    found = np.stack([np.full(len(content), arrow), start, np.diff(ends)], 1)
    for row in np.flatnonzero(found[:, 2] == 0):
        path = images.field("path")[int(row)].as_py()
        if not path:
            raise UsageError(f"an image in {files[found[row, 0]]} has neither bytes nor a path; remove it")
        found[row] = len(files), 0, -1
        files.append(path)
    return found
