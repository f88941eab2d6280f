"""Ctrl-C and SIGTERM, as a wish that a run fulfils at its next step."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from maskbench.runtime.launcher import launched

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A run was asked to stop, and did; what it had is saved. signal: the number of the signal that asked.

    No KeyboardInterrupt, which command-line libraries turn into an error of their own.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


@contextmanager
def stoppable(*, patient: bool = False) -> Iterator[Callable[[], int | None]]:
    """Within the block, the first signal does no more than that the yielded function returns its number.

    The second acts as it would outside: it stops the process at once; but where patient, none after the first is heard,
    for torchrun, and the process of `--jobs`, pass on what their processes have heard themselves. Signals that were
    ignored stay ignored. Outside the main thread, which alone receives signals, nothing changes. A block that ends
    otherwise than by Interrupted although a signal came raises Interrupted, so that none is lost.
    """
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def restore() -> None:
        for number in ours:
            signal.signal(number, signal.SIG_IGN if asked and patient else before[number])

    def hear(number: int, _: FrameType | None) -> None:
        asked.append(number)
        if not patient:
            restore()
        elif len(asked) > 1 or not launched().first:
            return
        with suppress(OSError):  # whoever read it may have been stopped too
            os.write(2, b"\nmaskbench: saving after this step" + b"; once more stops at once" * (not patient) + b"\n")

    if threading.current_thread() is not threading.main_thread():
        ours = set()
    for number in ours:
        signal.signal(number, hear)
    try:
        yield lambda: asked[0] if asked else None
    except Exception as error:
        if asked and launched().world == 1:  # else another process says what happened
            raise Interrupted("stopped", asked[0]) from error
        raise
    finally:
        restore()
    if asked:
        raise Interrupted("stopped", asked[0])
