"""Which files of a folder are read, by what a change of them is noticed, and what is left out.

Links are followed, so that what is read is what is listed. Hidden files and folders are left out at every level.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from maskbench.errors import UsageError
from maskbench.runtime.regular_files import ensure_regular

MAX_DEPTH = 100  # folders within each other
HIDDEN_FOLDERS = {"__MACOSX", "@eaDir"}  # besides names with a dot: made by macOS in archives, and by a Synology NAS
OTHER_IMAGES = {  # endings of images that are not read
    ".apng", ".arw", ".avif", ".bpg", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".exr", ".hdr", ".heic", ".heif",
    ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jxl", ".jxr", ".nef", ".nii", ".npy", ".npz", ".orf", ".pbm", ".pcx",
    ".pfm", ".pgm", ".pnm", ".psd", ".raf", ".raw", ".rw2", ".sgi", ".svg", ".tga", ".xbm", ".xpm",
}  # fmt: skip


@dataclass(frozen=True)
class FileListing:
    """The files below a folder that are read.

    Attributes:
        root: The folder.
        files: Their paths relative to `root`, sorted.
        stamps: Bytes and modification time in ns of each; of the target, where a file is a link.
        links: Each linked file or folder, relative to `root`, and where it leads.
        folders: Folders relative to `root`, also empty ones, sorted.
        left_out: What is left out, and how many files of it: hidden ones with an ending that is read, images with an
            ending that is not, files without an ending.
    """

    root: Path
    files: list[Path] = field(default_factory=list)
    stamps: list[tuple[int, int]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def key(self) -> list[list[object]]:
        """As JSON: it changes whenever a file changes, comes or goes, or a link leads elsewhere."""
        files = zip(self.files, self.stamps, strict=True)
        return [[path.as_posix(), *stamp] for path, stamp in files] + [[path, target] for path, target in self.links]

    def with_suffix(self, suffixes: Set[str]) -> list[Path]:
        """The files with one of the suffixes, relative to `root`."""
        return [path for path in self.files if path.suffix.lower() in suffixes]


def list_files(root: Path, suffixes: Set[str], others: Set[str] = OTHER_IMAGES) -> FileListing:
    """List the files below `root` that have one of the suffixes; those with one of `others` are counted.

    Raises:
        UsageError: A file or folder cannot be read, for example because a link points nowhere, a file that would be
            read is a pipe or a device, folders lie too deep, or two folders are one and the same, because one is a link
            to the other.
    """
    found = FileListing(root)
    rows = sorted(_walk(found, Path(), suffixes, others, {}))
    found.files.extend(path for path, *_ in rows)
    found.stamps.extend((size, changed) for _, size, changed in rows)
    found.links.sort()
    found.folders.sort()
    return found


def summarise(left_out: Counter[str]) -> str:
    """What was left out in one line, most first: "3 files .heic, 1 hidden file"; empty where nothing was."""
    counts = [(count, what if count > 1 else _singular(what)) for what, count in left_out.most_common() if count]
    return ", ".join(f"{count} {what}" for count, what in counts)


def _singular(what: str) -> str:
    return re.sub(r"\b(file|folder|shard)s\b", r"\1", what, count=1)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name in HIDDEN_FOLDERS


def _walk(
    found: FileListing, inner: Path, suffixes: Set[str], others: Set[str], seen: dict[tuple[int, int], Path]
) -> Iterator[tuple[Path, int, int]]:
    """Path relative to `root`, bytes and modification time in ns of each file; all else is noted in `found`."""
    root = found.root
    if len(inner.parts) > MAX_DEPTH:
        raise UsageError(f"{root} has more than {MAX_DEPTH} folders within each other; give a folder further inside")
    status = _stat(root / inner)
    earlier = seen.setdefault((status.st_dev, status.st_ino), inner)
    if earlier != inner:
        raise UsageError(f"{inner} and {earlier} of {root} are the same folder; remove the link")
    for entry in _scan(root / inner):
        path = inner / entry.name
        suffix = path.suffix.lower()
        if is_hidden(entry.name):
            found.left_out["hidden files"] += _count_hidden(root / path, suffixes)
            continue
        if entry.is_symlink() and (suffix in suffixes or entry.is_dir() or not entry.is_file()):
            found.links.append((path.as_posix(), os.path.realpath(entry.path)))
        if entry.is_dir():
            found.folders.append(path)
            yield from _walk(found, path, suffixes, others, seen)
        elif suffix in suffixes:
            status = _stat(root / path)
            _ensure_file(root / path, status)
            yield path, status.st_size, status.st_mtime_ns
        elif entry.is_symlink() and not suffix:
            _stat(root / path)  # it may have led to a folder
        elif suffix in others:
            found.left_out[f"files {suffix}"] += 1
        elif not suffix and inner.parts:
            found.left_out["files without an ending"] += 1


def _scan(folder: Path) -> Sequence["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}; allow it, or move {folder.name} away") from None


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        why = f"{error.strerror}: {path.readlink()}" if path.is_symlink() else error.strerror
        raise UsageError(f"cannot read {path}: {why}; bring it back, or remove {path.name}") from None


def _ensure_file(path: Path, status: os.stat_result) -> None:
    try:
        ensure_regular(status, path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; remove it") from None


def _count_hidden(path: Path, suffixes: Set[str]) -> int:
    """How many files with one of the suffixes a hidden file or folder is or holds."""
    if not path.is_dir():
        return int(path.suffix.lower() in suffixes)
    return sum(Path(name).suffix.lower() in suffixes for _, _, names in os.walk(path) for name in names)
