"""A plugin that tries to end the process: an error like any other, which names the plugin's line."""

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskbench.runtime.interrupt import Interrupted, is_ctrl_c

PLUGIN_PREFIX = "maskbench_plugin_"  # of the names of modules that are plugin files
_PACKAGE = Path(__file__).resolve().parents[1]
_STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"]).resolve()


class PluginExit(RuntimeError):
    """A plugin raised a bare BaseException, such as SystemExit by sys.exit. The message has FILE:LINE of the plugin."""


@contextmanager
def exits_as_errors() -> Iterator[None]:
    """Within the block, code of a plugin may run. What it raises is an Exception, whatever it raised.

    SystemExit and its like pass every `except Exception`: the command would end with exit code 0 and nothing done, and
    in a worker process the whole set of runs. Ctrl-C and other signals to stop pass as they are.

    Raises:
        PluginExit: The block raised a bare BaseException.
    """
    try:
        yield
    except (Exception, Interrupted):
        raise
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise PluginExit(_describe_exit(error)) from error


def describe_plugin_error(error: Exception) -> str | None:
    """One line with the plugin's line, e.g. "mine.py:12 raises KeyError: 'x'"; None where the error is not of a plugin
    that was given as a file."""
    files = {module.__file__ for name, module in list(sys.modules.items()) if name.startswith(PLUGIN_PREFIX)}
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not own:
        return None
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} raises {said}; `maskbench check` shows more"


def _describe_exit(error: BaseException) -> str:
    """One line, e.g. "mine.py:12 calls sys.exit(0)"."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)[:80]
        return f"{_origin_of(error)} calls sys.exit({code}); raise an error instead"
    return f"{_origin_of(error)} raises {type(error).__name__}: {str(error)[:80]}; raise an Exception instead"


def _origin_of(error: BaseException) -> str:
    """FILE:LINE of the innermost line that is neither of maskbench nor of Python's own library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_ours_or_pythons(frame.filename)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _is_ours_or_pythons(filename: str) -> bool:
    path = Path(filename).resolve()
    if filename.startswith("<") or path.is_relative_to(_PACKAGE):
        return True
    return path.is_relative_to(_STANDARD_LIBRARY) and not {"site-packages", "dist-packages"} & set(path.parts)
