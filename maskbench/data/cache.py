"""Data sets in the user's cache folder: decoded once and mapped into memory, or listed, to be streamed."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maskbench.data.encoded_images import Encoded
from maskbench.data.splits import Images, Split
from maskbench.data.streaming import Streamed
from maskbench.data.string_table import Texts
from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import sync

STALE_S = 86_400.0  # age at which a half-written file is nobody's any more
VERSION = 4  # of the packing: raise it when the same files would be packed differently


@dataclass(frozen=True)
class Packed:
    """A data set as stored: splits by name ("train", "test", perhaps "validation"), class names, fingerprint."""

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    fingerprint: str

    def needs(self, file: Path) -> bool:
        """Whether images are streamed from `file`."""
        streamed = [split for split in self.splits.values() if isinstance(split, Streamed)]
        return any(split.encoded.files[0] == str(file) for split in streamed)


def folder() -> Path:
    """Where packed data sets and downloads live: $MASKBENCH_CACHE, else the user's cache folder."""
    return Path(os.environ.get("MASKBENCH_CACHE") or platformdirs.user_cache_dir("maskbench"))


def cached(key: dict[str, Any], make: Callable[[Path], Packed]) -> Packed:
    """What `make` returns, from the cache if it holds `key` (JSON-able). A cache that cannot be used only warns, unless
    images are to be streamed from it: then it is a UsageError.

    make: is told of a file, which may not exist yet, that it may write encoded images to. It is kept if they are
    streamed from it. Of several processes that ask for the same, one makes it, and the others wait.
    """
    digest = hashlib.sha256(json.dumps({**key, "packing": VERSION}, sort_keys=True).encode()).hexdigest()
    path = folder() / "datasets" / f"{digest[:20]}.safetensors"
    found = _recalled(path)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder() / "locks").mkdir(exist_ok=True)
        lock = FileLock(folder() / "locks" / path.stem)
        lock.acquire()
    except OSError as error:
        return _uncached(path, make, error)
    try:
        return _recalled(path) or _kept(path, make)
    finally:
        lock.release()


def _recalled(path: Path) -> Packed | None:
    if not path.exists():
        return None
    try:
        return _read(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        warnings.warn(f"cached data {path} is unreadable ({error}); packing again", stacklevel=3)
        return None


def _kept(path: Path, make: Callable[[Path], Packed]) -> Packed:
    flat = path.with_suffix(".encoded")
    try:
        packed = _made(make, flat)
    except BaseException:
        flat.unlink(missing_ok=True)
        raise
    if not packed.needs(flat):
        flat.unlink(missing_ok=True)
    try:
        _write(path, packed)
        return _read(path)  # mapped, so that several runs share the memory
    except (OSError, SafetensorError) as error:  # the latter where the disk fills up
        warnings.warn(f"cannot cache packed data in {path.parent} ({error}); going on without", stacklevel=4)
        return packed


def _uncached(path: Path, make: Callable[[Path], Packed], error: OSError) -> Packed:
    with tempfile.TemporaryDirectory(prefix="maskbench-") as scratch:
        flat = Path(scratch) / "images.encoded"
        packed = _made(make, flat)
        if packed.needs(flat):
            raise UsageError(
                f"cannot write to {path.parent} ({error}), from where images would be streamed; set "
                f"MASKBENCH_CACHE to a folder with room for them"
            )
    warnings.warn(f"cannot cache packed data in {path.parent} ({error}); going on without", stacklevel=4)
    return packed


def _made(make: Callable[[Path], Packed], flat: Path) -> Packed:
    try:
        return make(flat)
    except OSError as error:
        if error.filename != str(flat):
            raise
        raise UsageError(
            f"cannot write images to {flat}: {error.strerror}; free space, or set MASKBENCH_CACHE to another folder"
        ) from None


def _write(path: Path, packed: Packed) -> None:
    tensors = {key: value for name, split in packed.splits.items() for key, value in _tensors(name, split)}
    about = {"classes": json.dumps(packed.classes), "fingerprint": packed.fingerprint}
    for stale in path.parent.glob("*.partial"):  # of a process that was killed
        if time.time() - stale.stat().st_mtime > STALE_S:
            stale.unlink(missing_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, partial, about)
        sync(Path(partial))
        Path(partial).replace(path)
        sync(path.parent)
    finally:
        Path(partial).unlink(missing_ok=True)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a tree of dataclasses, by its dotted name."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _tensors(f"{name}.{field.name}", getattr(value, field.name))
    elif value is not None:
        yield name, value.contiguous()


def _read(path: Path) -> Packed:
    tree: dict[str, Any] = {}
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        for key in file.keys():  # noqa: SIM118  safe_open is not iterable
            *parents, name = key.split(".")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[name] = file.get_tensor(key)
    splits = {name: _split(parts) for name, parts in tree.items()}
    return Packed(splits, tuple(json.loads(about["classes"])), about["fingerprint"])


def _split(parts: dict[str, Any]) -> Split:
    if "encoded" not in parts:
        return Images(**parts)
    encoded: dict[str, Any] = parts["encoded"]
    texts = {name: Texts(**part) for name, part in encoded.items() if isinstance(part, dict)}
    streamed = Streamed(**{**parts, "encoded": Encoded(**{**encoded, **texts})})
    Path(streamed.encoded.files[0]).stat()  # an OSError where it has gone: files outside are looked at for the key
    return streamed
