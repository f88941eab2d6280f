"""Ctrl-C, SIGTERM and SIGHUP as a request that a run carries out after its current step."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from maskbench.runtime.launcher import detect_launch

# SIGHUP comes when a terminal is closed or a connection lost; Windows has none.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupted(BaseException):
    """A signal stopped a run, and what it had is saved.

    It is no KeyboardInterrupt, which command-line libraries turn into an error of their own.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class CtrlC(KeyboardInterrupt):
    """Ctrl-C, and not a KeyboardInterrupt that a plugin raised."""


def raise_ctrl_c(number: int, _: FrameType | None) -> NoReturn:
    """The command line's handler of SIGINT."""
    raise CtrlC


def is_ctrl_c(error: BaseException) -> bool:
    """Whether a user pressed Ctrl-C.

    Where `raise_ctrl_c` handles the signal, or it is ignored as in worker processes, a plain KeyboardInterrupt is a
    plugin's. In a program of the user's own it is believed.
    """
    told_apart = signal.getsignal(signal.SIGINT) in (raise_ctrl_c, signal.SIG_IGN)
    return isinstance(error, CtrlC) or (isinstance(error, KeyboardInterrupt) and not told_apart)


@contextmanager
def catch_stop_signals(*, ignore_repeats: bool = False) -> Iterator[Callable[[], int | None]]:
    """Within the block, the first of SIGNALS is only noted; the second acts as outside, and stops the process.

    Signals that were ignored before stay ignored. Nothing changes outside the main thread, which alone gets signals.

    Args:
        ignore_repeats: Ignore all after the first: torchrun, and the main process of `--jobs`, pass on a signal that
            their processes may have received already.

    Yields:
        A function that returns the number of the signal that was noted, None while there is none.

    Raises:
        Interrupted: At the end of a block that noted a signal and did not raise it itself, so that none is lost.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = {number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN if received and ignore_repeats else before[number])

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        if not ignore_repeats:
            restore()
        elif len(received) > 1 or not detect_launch().is_rank0:
            return
        _announce(can_be_hurried=not ignore_repeats)

    if threading.current_thread() is not threading.main_thread():
        handled = set()
    for number in handled:
        signal.signal(number, note)
    try:
        yield lambda: received[0] if received else None
    except Exception as error:
        if received and detect_launch().world_size == 1:  # otherwise another process reports what happened
            raise Interrupted("stopped", received[0]) from error
        raise
    finally:
        restore()
    if received:
        raise Interrupted("stopped", received[0])


def _announce(*, can_be_hurried: bool) -> None:
    text = b"\nmaskbench: saving after this step" + b"; once more stops at once" * can_be_hurried + b"\n"
    with suppress(OSError):  # whoever reads stderr may have been stopped, too
        os.write(2, text)
