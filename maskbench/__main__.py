"""The command `maskbench`, also as python -m maskbench. Ctrl-C is heard before anything heavy is imported."""

import os
import signal
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130  # a shell's code for Ctrl-C


def _leave(number: int, _: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"maskbench: interrupted\n")
    os._exit(INTERRUPTED)


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored signals stay ignored
        signal.signal(signal.SIGINT, _leave)
    from maskbench.cli.main import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
