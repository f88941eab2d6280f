"""Runs commands in this process and watches what they do: time, memory, files, processes, connections, words."""

import os
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tests.helpers.command_line import Done

CPU_SECONDS, SECONDS = 10, 120  # of this process; on a clock, for what waits
MEMORY_MIB = 1024
LINES = 12  # on stderr: what a command says of one bad input among good ones
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn",
             "socket.connect", "socket.getaddrinfo", "ctypes.dlopen_untrusted")  # fmt: skip
OWN_PROGRAMS = ("git", "squeue")  # with arguments of ours: the revision of the code, and the state of Slurm's jobs
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


class TooSlow(BaseException):
    """Nothing may catch it by accident."""


@dataclass
class Watch:
    """What the audit hook has seen since `start`."""

    allowed: Path | None = None
    seen: list[str] = field(default_factory=list)

    def start(self, allowed: Path) -> None:
        self.allowed, self.seen = allowed, []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in FORBIDDEN and not (event == "subprocess.Popen" and arguments[0] in OWN_PROGRAMS):
            self.seen.append(f"{event} {str(arguments)[:80]}")
        if event == "open" and isinstance(arguments[0], str | bytes) and self._writes(arguments):
            path = Path(os.fsdecode(arguments[0])).resolve()
            places = (self.allowed.resolve(), Path(tempfile.gettempdir()).resolve(), Path("/dev"), Path("/proc"))
            if not any(path.is_relative_to(place) for place in places):
                self.seen.append(f"wrote {path}")

    @staticmethod
    def _writes(arguments: tuple[Any, ...]) -> bool:
        mode, flags = arguments[1], arguments[2]
        by_mode = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        return by_mode or bool(int(flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


WATCH = Watch()
_installed = False


def install() -> None:
    """The hook stays for the life of the process."""
    global _installed
    if not _installed:
        sys.addaudithook(WATCH)
        _installed = True


def limit_memory() -> None:
    """From here on a MemoryError, and not the machine's end, stops what asks for much more than MEMORY_MIB."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 4 * MEMORY_MIB * 2**20,) * 2)


@contextmanager
def _time_limit(passed: list[str]) -> Iterator[None]:
    """Stops what runs too long, and notes it in `passed`: a command may make an error of its own of the exception."""

    def stop(number: int, __: FrameType | None) -> None:
        passed.append("waited" if number == signal.SIGALRM else "computed")
        raise TooSlow

    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(SECONDS)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def judge(command: Callable[[], Done], folder: Path, codes: tuple[int, ...]) -> str | None:
    """What was wrong with a command, None if nothing was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    WATCH.start(folder)
    passed: list[str] = []
    try:
        with _time_limit(passed):
            done = command()
    except TooSlow:
        pass
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__} {str(error)[:80]} at {Path(where.filename).name}:{where.lineno}"
    finally:
        seen, WATCH.allowed = WATCH.seen, None
    if passed:
        return f"{passed[0]} for too long"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    lines = done.err.strip().splitlines()
    faults = {
        f"exit code {done.code}, {lines[-1:]}": done.code not in codes,
        f"{grown:.0f} MiB more": grown > MEMORY_MIB,
        f"did {seen[:2]}": bool(seen),
        f"{len(lines)} lines": len(lines) > LINES or (done.code == 2 and len(lines) > 3),
        "a line of more than 1,000 characters": any(len(line) > 1000 for line in lines),
        "a traceback on stderr": "Traceback (most recent call last)" in done.err,
        f"control characters: {lines[-1:]!r}": bool(CONTROL.search(done.err + done.out)),
        "left stolen": (folder / "stolen").exists() or Path("stolen").exists(),
    }
    return next((words for words, holds in faults.items() if holds), None)
