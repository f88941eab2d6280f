"""The user's cache folder: prepared data sets, mapped into memory or listed for streaming."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError

from maskbench.data.packed_file import DamagedCache, read_packed, write_packed
from maskbench.data.prepare import PreparedDataset
from maskbench.data.streaming import StreamedImages
from maskbench.errors import UsageError

STALE_S = 86_400.0  # a half-written file of this age was left by a process that was killed
CHECK_ALL = "MASKBENCH_CHECK_CACHE"  # environment variable: check every byte of what is read from the cache
VERSION = 6  # raise it when the same files would be read or prepared otherwise


def cache_folder() -> Path:
    """Where prepared data sets and downloads are: $MASKBENCH_CACHE, else the user's cache folder."""
    return Path(os.environ.get("MASKBENCH_CACHE") or platformdirs.user_cache_dir("maskbench"))


def read_or_create(key: dict[str, Any], create: Callable[[Path], PreparedDataset]) -> PreparedDataset:
    """Read a prepared data set from the cache, or create and store it.

    What is read is checked, see `maskbench.data.packed_file`; what is damaged is created again, with a warning. Of
    several processes that need the same data set, one creates it while the others wait. A cache that cannot be written
    only warns, unless images are to be streamed from it.

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
    except DamagedCache as error:
        warnings.warn(f"cached data {path} cannot be used ({error}); preparing the data again", stacklevel=3)
        return None


def _read(path: Path) -> PreparedDataset:
    return read_packed(path, every_block=os.environ.get(CHECK_ALL, "0") not in ("", "0"))


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
        _remove_stale_files(path.parent)
        write_packed(path, prepared)
        return _read(path)  # mapped, so that several runs share the memory
    except (OSError, SafetensorError, DamagedCache) as error:  # the latter where the disk fills up
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


def _remove_stale_files(folder: Path) -> None:
    for partial in folder.glob("*.partial"):
        if time.time() - partial.stat().st_mtime > STALE_S:
            partial.unlink(missing_ok=True)
