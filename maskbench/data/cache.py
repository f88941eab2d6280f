"""The user's cache folder: prepared data sets, mapped into memory or listed for streaming."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.prepare import PreparedDataset
from maskbench.data.splits import Images, Split
from maskbench.data.streaming import StreamedImages
from maskbench.data.string_table import StringTable
from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import fsync_path

STALE_S = 86_400.0  # a half-written file of this age was left by a process that was killed
VERSION = 5  # raise it when the same files would be read or prepared otherwise


def cache_folder() -> Path:
    """Where prepared data sets and downloads are: $MASKBENCH_CACHE, else the user's cache folder."""
    return Path(os.environ.get("MASKBENCH_CACHE") or platformdirs.user_cache_dir("maskbench"))


def read_or_create(key: dict[str, Any], create: Callable[[Path], PreparedDataset]) -> PreparedDataset:
    """Read a prepared data set from the cache, or create and store it.

    Of several processes that need the same data set, one creates it while the others wait. A cache that cannot be
    written only warns, unless images are to be streamed from it.

    Args:
        key: Identifies the data set and how it is prepared, as JSON.
        create: Prepares it. It may write encoded images to the file that it gets, which does not exist yet; the file
            is kept if they are streamed from it.

    Raises:
        UsageError: Images are to be streamed from the cache, and it cannot be written.
    """
    digest = hashlib.sha256(json.dumps({**key, "packing": VERSION}, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "datasets" / f"{digest[:20]}.safetensors"
    stored = _read_if_valid(path)
    if stored is not None:
        return stored
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (cache_folder() / "locks").mkdir(exist_ok=True)
        lock = FileLock(cache_folder() / "locks" / path.stem)
        lock.acquire()
    except OSError as error:
        return _create_without_cache(path, create, error)
    try:
        return _read_if_valid(path) or _create_and_store(path, create)
    finally:
        lock.release()


def _read_if_valid(path: Path) -> PreparedDataset | None:
    if not path.exists():
        return None
    try:
        return _read(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        warnings.warn(f"cached data {path} cannot be read ({error}); preparing the data again", stacklevel=3)
        return None


def _create_and_store(path: Path, create: Callable[[Path], PreparedDataset]) -> PreparedDataset:
    unpacked = path.with_suffix(".encoded")
    try:
        prepared = _create(create, unpacked)
    except BaseException:
        unpacked.unlink(missing_ok=True)
        raise
    if not _is_streamed_from(unpacked, prepared):
        unpacked.unlink(missing_ok=True)
    try:
        _write(path, prepared)
        return _read(path)  # mapped, so that several runs share the memory
    except (OSError, SafetensorError) as error:  # the latter where the disk fills up
        _warn_without_cache(path, error)
        return prepared


def _create_without_cache(path: Path, create: Callable[[Path], PreparedDataset], error: OSError) -> PreparedDataset:
    with tempfile.TemporaryDirectory(prefix="maskbench-") as scratch:
        unpacked = Path(scratch) / "images.encoded"
        prepared = _create(create, unpacked)
        if _is_streamed_from(unpacked, prepared):
            raise UsageError(
                f"cannot write to {path.parent} ({error}), from where images would be streamed; set "
                f"MASKBENCH_CACHE to a folder with room for them"
            )
    _warn_without_cache(path, error)
    return prepared


def _warn_without_cache(path: Path, error: Exception) -> None:
    warnings.warn(f"cannot write to the cache {path.parent} ({error}); continuing without it", stacklevel=5)


def _create(create: Callable[[Path], PreparedDataset], unpacked: Path) -> PreparedDataset:
    """Call `create`; a UsageError where it cannot write to `unpacked`."""
    try:
        return create(unpacked)
    except OSError as error:
        if error.filename != str(unpacked):
            raise
        raise UsageError(
            f"cannot write images to {unpacked}: {error.strerror}; free space, or set MASKBENCH_CACHE to another folder"
        ) from None


def _is_streamed_from(file: Path, prepared: PreparedDataset) -> bool:
    streamed = [split for split in prepared.splits.values() if isinstance(split, StreamedImages)]
    return any(split.encoded.files[0] == str(file) for split in streamed)


def _write(path: Path, prepared: PreparedDataset) -> None:
    tensors = {key: value for name, split in prepared.splits.items() for key, value in _list_tensors(name, split)}
    metadata = {"classes": json.dumps(prepared.classes), "fingerprint": prepared.fingerprint}
    _remove_stale_files(path.parent)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, partial, metadata)
        fsync_path(Path(partial))
        Path(partial).replace(path)
        fsync_path(path.parent)
    finally:
        Path(partial).unlink(missing_ok=True)


def _remove_stale_files(folder: Path) -> None:
    for partial in folder.glob("*.partial"):
        if time.time() - partial.stat().st_mtime > STALE_S:
            partial.unlink(missing_ok=True)


def _list_tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a tree of dataclasses, with its dotted name, such as "train.encoded.files.ends"."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _list_tensors(f"{name}.{field.name}", getattr(value, field.name))
    elif value is not None:
        yield name, value.contiguous()


def _read(path: Path) -> PreparedDataset:
    tree: dict[str, Any] = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        for key in file.keys():  # noqa: SIM118  safe_open is not iterable
            *parents, name = key.split(".")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[name] = file.get_tensor(key)
    splits = {name: _restore_split(split) for name, split in tree.items()}
    return PreparedDataset(splits, tuple(json.loads(metadata["classes"])), metadata["fingerprint"])


def _restore_split(tree: dict[str, Any]) -> Split:
    """The inverse of `_list_tensors` for one split."""
    if "encoded" not in tree:
        return Images(**tree)
    encoded: dict[str, Any] = tree["encoded"]
    tables = {name: StringTable(**branch) for name, branch in encoded.items() if isinstance(branch, dict)}
    streamed = StreamedImages(**{**tree, "encoded": EncodedImages(**{**encoded, **tables})})
    Path(streamed.encoded.files[0]).stat()  # OSError if the cache lost it; the key covers files outside the cache
    return streamed
