"""A prepared data set as one file of the cache: its tensors, and checksums by which damage is noticed.

A seal covers all that is small: names, types and shapes of the tensors, class names, fingerprint, the name of the file
and the checksums. The checksums cover the tensors, block by block. Opening a file checks the seal, every block of what
is small, and a sample of the blocks of large tensors; on request every block.
"""

import hashlib
import json
import os
import random
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.prepare import PreparedDataset
from maskbench.data.splits import Images, Split
from maskbench.data.streaming import StreamedImages
from maskbench.data.string_table import StringTable
from maskbench.runtime.atomic_files import fsync_path
from maskbench.runtime.regular_files import ensure_regular

BLOCK = 2**20  # bytes under one CRC-32
SAMPLED = 256  # blocks of each tensor that are checked at open: 0.15 s at 1.7 GB/s (one core, November 2026)
SEAL = "seal"


class DamagedCache(ValueError):
    """A file of the cache that is not as it was written."""


def write_packed(path: Path, prepared: PreparedDataset) -> None:
    """Write a data set to `path`: the whole file or nothing. OSError or SafetensorError where the disk refuses."""
    tensors = {key: value for name, split in prepared.splits.items() for key, value in _list_tensors(name, split)}
    metadata = {
        "name": path.stem,
        "classes": json.dumps(prepared.classes),
        "fingerprint": prepared.fingerprint,
        "checksums": json.dumps({key: list(_checksums(value, _all_blocks(value))) for key, value in tensors.items()}),
        "unpacked": json.dumps(_stamp_unpacked(path, prepared)),
    }
    metadata[SEAL] = _seal(metadata, tensors)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, partial, metadata)
        fsync_path(Path(partial))
        Path(partial).replace(path)
        fsync_path(path.parent)
    finally:
        Path(partial).unlink(missing_ok=True)


def read_packed(path: Path, *, every_block: bool = False) -> PreparedDataset:
    """Read and check what `write_packed` wrote. Tensors are mapped, so that several processes share the memory.

    Args:
        path: The file.
        every_block: Check every block, and not a sample of those of large tensors.

    Raises:
        DamagedCache: The file cannot be read, or is not as it was written. The message says in what.
    """
    try:
        ensure_regular(path.stat(), path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  safe_open is not iterable
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DamagedCache(str(reason)) from None
    if metadata.get(SEAL) != _seal(metadata, tensors):
        raise DamagedCache("its seal does not match")
    if metadata["name"] != path.stem:
        raise DamagedCache("it is the file of another data set")
    checksums = json.loads(metadata["checksums"])
    for key, tensor in tensors.items():
        _ensure_unchanged(key, tensor, checksums[key], every_block=every_block)
    _ensure_unpacked_unchanged(json.loads(metadata["unpacked"]))
    splits = {name: _restore_split(split) for name, split in _as_tree(tensors).items()}
    return PreparedDataset(splits, tuple(json.loads(metadata["classes"])), metadata["fingerprint"])


def _seal(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of everything but the values of tensors."""
    kinds = {key: [str(tensor.dtype), list(tensor.shape)] for key, tensor in tensors.items()}
    about = {key: text for key, text in metadata.items() if key != SEAL}
    return hashlib.sha256(json.dumps([about, kinds], sort_keys=True).encode()).hexdigest()


def _as_bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _all_blocks(tensor: Tensor) -> range:
    return range(-(-tensor.numel() * tensor.element_size() // BLOCK))


def _checksums(tensor: Tensor, blocks: range | list[int]) -> Iterator[int]:
    content = _as_bytes(tensor)
    return (zlib.crc32(content[block * BLOCK : (block + 1) * BLOCK]) for block in blocks)


def _ensure_unchanged(key: str, tensor: Tensor, checksums: list[int], *, every_block: bool) -> None:
    """DamagedCache where a block that is looked at is not as it was written."""
    blocks: range | list[int] = _all_blocks(tensor)
    if len(blocks) > SAMPLED and not every_block:  # others each time, so that damage is found in the end
        blocks = random.Random().sample(blocks, SAMPLED)
    for block, found in zip(blocks, _checksums(tensor, blocks), strict=True):
        if found != checksums[block]:
            raise DamagedCache(f"{key} is not as it was written, near byte {block * BLOCK}")


def _stamp_unpacked(path: Path, prepared: PreparedDataset) -> dict[str, tuple[int, int]]:
    """Bytes and modification time in ns of the files of encoded images that are in the cache, too.

    Of other files the name of the cached file depends on these numbers, as they are part of its key.
    """
    streamed = [split for split in prepared.splits.values() if isinstance(split, StreamedImages)]
    files = {Path(split.encoded.files[0]) for split in streamed}
    return {str(file): _stamp(file) for file in files if file.parent == path.parent}


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _ensure_unpacked_unchanged(stamps: dict[str, list[int]]) -> None:
    for file, stamp in stamps.items():
        try:
            found = _stamp(Path(file))
        except OSError as error:
            raise DamagedCache(f"{file}: {error.strerror}") from None
        if list(found) != stamp:
            raise DamagedCache(f"{file} was changed since")


def _list_tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a tree of dataclasses, with its dotted name, such as "train.encoded.files.ends"."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _list_tensors(f"{name}.{field.name}", getattr(value, field.name))
    elif value is not None:
        yield name, value.contiguous()


def _as_tree(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `_list_tensors`, with dicts for dataclasses."""
    tree: dict[str, Any] = {}
    for key, tensor in tensors.items():
        *parents, name = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = tensor
    return tree


def _restore_split(tree: dict[str, Any]) -> Split:
    if "encoded" not in tree:
        return Images(**tree)
    encoded: dict[str, Any] = tree["encoded"]
    tables = {name: StringTable(**branch) for name, branch in encoded.items() if isinstance(branch, dict)}
    return StreamedImages(**{**tree, "encoded": EncodedImages(**{**encoded, **tables})})
