"""Files that are there whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

PARTIAL = ".partial"  # how the names of files under way end

BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # what no other --output on the same disk would help against
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the quota is used up: free some space",
    errno.ENOENT: "the folder is gone: bring it back, or choose another --output",
    errno.EACCES: "no permission: allow writing, or choose another --output",
    errno.EPERM: "not permitted: allow writing, or choose another --output",
    errno.EROFS: "the file system is read-only: choose another --output",
    errno.EIO: "the disk or the network reports an error: check it, or choose another --output",
}


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write to a temporary file beside `path`, sync it, rename it, sync the folder: no half-written file is ever seen
    under the name, and once this returns not even a power cut takes it back. OSError names `path`."""
    try:
        partial = _written(path, content.encode() if isinstance(content, str) else content)
        try:
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _written(path: Path, content: bytes | memoryview) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def sync(path: Path) -> None:
    """Bring a file or a folder's names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise
    finally:
        os.close(handle)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written directly in `folder`, of which nobody else may be writing."""
    for partial in folder.glob(f".*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def trouble(error: OSError) -> str:
    """What happened to which file, and the remedy, in one line."""
    remedy = _REMEDIES.get(error.errno or 0, error.strerror or "cannot be done")
    return f"{error.filename}: {remedy}" if error.filename else remedy
