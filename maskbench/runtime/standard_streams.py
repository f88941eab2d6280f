"""stdin, stdout and stderr of the command: whole where one is closed, and stdout for data alone."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from maskbench.errors import Failure

# A file for each stream that is closed. stdout's cannot be written, so that writing there is the error that it was.
_STAND_INS = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
_data: TextIO | None = None  # stdout within `stdout_for_data`


class OutputUnread(Failure):
    """Nobody reads stdout any more, as after `| head`."""


class _Stderr(io.TextIOWrapper):
    """stderr. A full disk, a closed terminal or a reader that is gone stops no run."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


def prepare_streams() -> None:
    """Give the process the streams that it lacks, so that no file of a run takes the number of one, and make stderr
    forgiving."""
    for number, flags in _STAND_INS.items():
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "backslashreplace")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace")
    if type(sys.stderr) is io.TextIOWrapper:
        buffer, encoding = sys.stderr.buffer, sys.stderr.encoding
        sys.stderr = _Stderr(buffer, encoding, "backslashreplace", line_buffering=True, write_through=True)


@contextmanager
def stdout_for_data() -> Iterator[None]:
    """Within the block `print_data` alone writes to stdout.

    What plugins, libraries and their processes print goes to stderr, so that `--json` stays JSON.
    """
    global _data
    outer, outer_data = sys.stdout, _data
    saved = _redirect_descriptor(outer)
    _data = outer if saved is None else os.fdopen(saved, "w", encoding=outer.encoding, errors=outer.errors)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        if saved is not None:
            with suppress(OSError, ValueError):
                outer.flush()  # what was printed by a reference to it
            os.dup2(saved, 1)
            with suppress(OSError):
                _data.close()
        sys.stdout, _data = outer, outer_data


def _redirect_descriptor(stdout: TextIO) -> int | None:
    """Let descriptor 1 lead to stderr; a copy of what it was. None where `stdout` is not this process's stdout."""
    try:
        if stdout.fileno() != 1:
            return None
    except (OSError, ValueError):
        return None
    with suppress(OSError):
        stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    return saved


def print_data(text: object, end: str = "\n") -> None:
    """Print what a command is for to stdout.

    Raises:
        OutputUnread: Nobody reads it.
        Failure: stdout is closed, or its disk is full.
    """
    stdout = sys.stdout if _data is None else _data
    try:
        print(text, end=end, file=stdout, flush=True)
    except OSError as error:
        raise explain_stdout_error(error) from None


def flush_stdout() -> None:
    """Bring what was printed to its place. Errors as `print_data`; afterwards Python tries no more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.close(descriptor)
        if isinstance(error, OSError):
            raise explain_stdout_error(error) from None


def explain_stdout_error(error: OSError) -> Failure:
    """What went wrong as stdout was written."""
    if isinstance(error, BrokenPipeError):
        return OutputUnread("nobody reads stdout")
    reason = "it is closed" if error.errno == errno.EBADF else error.strerror
    return Failure(f"cannot write to stdout: {reason}; what was to be printed is lost, files are written")
