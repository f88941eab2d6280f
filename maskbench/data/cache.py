"""Packed data sets in the user's cache folder: decoded once, then mapped into memory."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from maskbench.data.splits import Images
from maskbench.storage import sync

STALE_S = 86_400.0  # age at which a half-written file is nobody's any more
VERSION = 1  # of the packing: raise it when the same files would be packed differently


@dataclass(frozen=True)
class Packed:
    """A data set as stored: splits by name ("train", "test", perhaps "validation"), class names, fingerprint."""

    splits: dict[str, Images]
    classes: tuple[str, ...]
    fingerprint: str


def folder() -> Path:
    """Where packed data sets and downloads live: $MASKBENCH_CACHE, else the user's cache folder."""
    return Path(os.environ.get("MASKBENCH_CACHE") or platformdirs.user_cache_dir("maskbench"))


def cached(key: dict[str, Any], pack: Callable[[], Packed]) -> Packed:
    """What `pack` returns, from the cache if it holds `key` (JSON-able). A cache that cannot be used only warns."""
    digest = hashlib.sha256(json.dumps({**key, "packing": VERSION}, sort_keys=True).encode()).hexdigest()
    path = folder() / "datasets" / f"{digest[:20]}.safetensors"
    if path.exists():
        try:
            return _read(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            warnings.warn(f"cached data {path} is unreadable ({error}); packing again", stacklevel=2)
    packed = pack()
    try:
        _write(path, packed)
        return _read(path)  # mapped, so that several runs share the memory
    except (OSError, SafetensorError) as error:  # the latter where the disk fills up
        warnings.warn(f"cannot cache packed data in {path.parent} ({error}); going on without", stacklevel=2)
        return packed


def _write(path: Path, packed: Packed) -> None:
    tensors = {}
    for name, split in packed.splits.items():
        for field, value in vars(split).items():
            if value is not None:
                tensors[f"{name}.{field}"] = value.contiguous()
    about = {"classes": json.dumps(packed.classes), "fingerprint": packed.fingerprint}
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _read(path: Path) -> Packed:
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        fields: dict[str, dict[str, Any]] = {}
        for key in file.keys():  # noqa: SIM118  safe_open is not iterable
            split, field = key.split(".")
            fields.setdefault(split, {})[field] = file.get_tensor(key)
    splits = {name: Images(**values) for name, values in fields.items()}
    return Packed(splits, tuple(json.loads(about["classes"])), about["fingerprint"])
