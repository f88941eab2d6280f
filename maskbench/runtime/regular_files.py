"""Reading files that somebody else may have written: regular files alone, and no larger than is expected.

A named pipe would make the reader wait for ever, and a device such as /dev/zero never ends.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MIB = 2**20


def open_regular(path: Path | str, max_bytes: int | None = None) -> BinaryIO:
    """Open a file for reading.

    Args:
        path: The file. Links are followed.
        max_bytes: The most that it may hold. Default: any size.

    Returns:
        The open file, unbuffered.

    Raises:
        OSError: There is no such file, it is a pipe, a device, a socket or a folder, or it is larger. `strerror` says
            which, in words that can end a message.
    """
    opened = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: PTH123, SIM115
    try:
        ensure_regular(os.fstat(opened.fileno()), path, max_bytes)
    except BaseException:
        opened.close()
        raise
    return opened


def read_regular(path: Path | str, max_bytes: int) -> bytes:
    """All of a file. OSError as `open_regular` has it."""
    with open_regular(path, max_bytes) as opened:
        return opened.read()


def ensure_regular(status: os.stat_result, path: Path | str, max_bytes: int | None = None) -> None:
    """OSError where `status` is not that of a regular file of at most `max_bytes`."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is a {_kind(status.st_mode)}, not a file", str(path))
    if max_bytes is not None and status.st_size > max_bytes:
        held, most = status.st_size / MIB, max_bytes / MIB
        raise OSError(errno.EFBIG, f"it has {held:,.0f} MiB, more than the {most:,.0f} MiB that are read", str(path))


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "device")
