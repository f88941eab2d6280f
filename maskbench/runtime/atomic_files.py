"""Files that appear complete or not at all."""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from maskbench.errors import UsageError

PARTIAL_SUFFIX = ".partial"  # of files that are still being written

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # another --output on the same disk would not help
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.ENOENT: "the folder is gone: bring it back, or choose another --output",
    errno.EACCES: "no permission: allow writing, or choose another --output",
    errno.EPERM: "not permitted: allow writing, or choose another --output",
    errno.EROFS: "the file system is read-only: choose another --output",
    errno.EIO: "the disk or the network reports an error: check it, or choose another --output",
}


def write_atomically(path: Path, content: str | bytes | memoryview, *, sync: bool = True) -> None:
    """Write a file so that nobody ever sees it half-written, and a power cut after the return does not undo it.

    A temporary file beside it is written and synced, then renamed, and the folder is synced. A symbolic link in its
    place is replaced, not followed. The umask decides who may read it.

    Args:
        path: The file; its folder exists.
        content: Text is written as UTF-8.
        sync: Whether a power cut counts.

    Raises:
        OSError: It names `path`, not the temporary file.
    """
    try:
        partial = _write_partial(path, content.encode() if isinstance(content, str) else content, sync)
        try:
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        if sync:
            fsync_path(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_partial(path: Path, content: bytes | memoryview, sync: bool) -> Path:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def make_folder(root: Path, *below: str) -> Path:
    """Make the folder `root`, and in it the folders `below`, one in the other; returns the last.

    Raises:
        UsageError: One of `below` is a symbolic link: what is written there would lie outside of `root`.
        OSError: A folder cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root
    for name in below:
        folder /= name
        with suppress(FileExistsError):
            folder.mkdir()
        ensure_no_link(folder)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return folder


def ensure_no_link(folder: Path) -> None:
    """UsageError where `folder` is a symbolic link: what is written there would lie elsewhere."""
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link, and nothing is written through it; move a real folder into its place")


def fsync_path(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of some network file systems, which cannot sync
            raise
    finally:
        os.close(handle)


def remove_partial_files(folder: Path) -> None:
    """Remove half-written files that a killed process left in `folder`; no other process may be writing there."""
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        partial.unlink(missing_ok=True)


def describe_os_error(error: OSError) -> str:
    """The file and the remedy, in one line."""
    remedy = _REMEDIES.get(error.errno or 0, error.strerror or "cannot be done")
    return f"{error.filename}: {remedy}" if error.filename else remedy
