"""The folder in which relative paths begin: results, data and plugins are found by it, so that nobody may change it."""

import os
from contextlib import suppress
from pathlib import Path


class WorkingDirectory:
    """The working directory of this process at a moment, to which it can return."""

    def __init__(self) -> None:
        self._path = _current_directory()

    def restore(self) -> str | None:
        """Return there. What the working directory had become, None where it is the same."""
        here = _current_directory()
        if self._path is None or here == self._path:
            return None
        with suppress(OSError):  # it was removed
            os.chdir(self._path)
        return here or "a folder that is gone"


def describe_move(directory: str) -> str:
    """The end of a line about a plugin that has changed the working directory to `directory`."""
    return f"its code changed the working directory to {directory}, which moves data and results; drop os.chdir"


def _current_directory() -> str | None:
    """None where it was removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return None
