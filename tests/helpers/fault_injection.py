"""`maskbench run` in a forked process that is killed, or whose disk fails, at a chosen moment."""

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from maskbench.cli.main import main


class Ended(NamedTuple):
    """How a process ended: its exit code, or minus the signal that ended it, and what it printed."""

    code: int
    said: str


class FaultInjector:
    """Counts what a process does to files under `root`, and at operation number `at` kills it or lets it fail.

    Operations: opening for writing, syncing, renaming, removing, making a folder. A process that is killed while it
    syncs leaves half of the file.
    """

    def __init__(self, root: Path, at: int, fault: int | None) -> None:
        self.root, self.at, self.fault, self.count = str(root), at, fault, 0
        self.sync = os.fsync
        os.fsync = self.fsync  # type: ignore[assignment]
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else "r" not in mode
            if writes and isinstance(path, str):
                self.meet(path)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.link"):
            self.meet(os.fspath(arguments[0]))

    def fsync(self, handle: int) -> None:
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        if self.count + 1 == self.at and self.fault is None and Path(path).is_file():
            os.truncate(path, os.path.getsize(path) // 2)  # noqa: PTH202
        self.meet(path)
        self.sync(handle)

    def meet(self, path: str) -> None:
        if not os.path.abspath(path).startswith(self.root):  # noqa: PTH100
            return
        self.count += 1
        if self.count == self.at:
            if self.fault is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.fault, os.strerror(self.fault), path)


def start_run(arguments: list[str], cwd: Path, at: int = 0, fault: int | None = None) -> tuple[int, Path]:
    """Fork `maskbench run ARGUMENTS` in `cwd`; returns its process id, and the file with what it prints."""
    said = cwd / f"said-{time.monotonic_ns()}.txt"
    child = os.fork()
    if child:
        return child, said
    code = 99
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(cwd)
        counter = FaultInjector(cwd / "results", at, fault)
        sys.argv = ["maskbench", "run", *arguments]
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        sys.stdout.flush()
        os.write(2, f"\noperations: {counter.count}\n".encode())
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)
    raise AssertionError


def wait_for_run(child: int, said: Path) -> Ended:
    """Wait for a process that `start_run` started."""
    _, status = os.waitpid(child, 0)
    text = said.read_text() if said.exists() else ""
    said.unlink(missing_ok=True)
    return Ended(os.waitstatus_to_exitcode(status), text)


def execute_run(arguments: list[str], cwd: Path, at: int = 0, fault: int | None = None, kill_after: float = 0) -> Ended:
    """`maskbench run ARGUMENTS`, killed after `kill_after` seconds, or killed or failed at operation number `at`."""
    child, said = start_run(arguments, cwd, at, fault)
    if kill_after:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return wait_for_run(child, said)
