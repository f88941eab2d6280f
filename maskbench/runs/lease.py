"""Who works on a run: a lease among its files, so that no two processes do the same one."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import filelock

LEASE_S = 60.0  # silence after which another process may take over; the holder is heard of every third of it
POLL_S = 0.5
LOCK = "running.lock"


class Busy(Exception):
    """Another process works on the run; the message says which."""


class _Contender:
    """This process's lease of a folder, kept from one attempt to the next: silence is measured by watching."""

    def __init__(self, folder: Path) -> None:
        self.lease = filelock.SoftFileLease(folder / LOCK, lease_duration=LEASE_S, thread_local=False)
        self.seen: tuple[int, int] | None = None
        self.since = 0.0

    def attempt(self) -> bool:
        """Whether the lease is ours now."""
        if self.lease.is_locked:
            return False  # by another thread
        try:
            self.lease.acquire(timeout=0)
        except filelock.Timeout:
            if not self._forsaken():
                return False
            # On file systems that cannot exchange two names, such as NFS, the library leaves stale leases alone.
            self.lease.force_break()
            with suppress(filelock.Timeout):
                self.lease.acquire(timeout=0)
        return bool(self.lease.is_locked)

    def _forsaken(self) -> bool:
        """Whether the holder has been silent for so long that the library should have taken the lease over."""
        with suppress(OSError):
            about = Path(self.lease.lock_file).stat()
            if self.seen != (about.st_ino, about.st_mtime_ns):
                self.seen, self.since = (about.st_ino, about.st_mtime_ns), time.monotonic()
            return time.monotonic() - self.since > 1.5 * LEASE_S
        return False

    def holder(self) -> str:
        owner = self.lease.owner
        return "held" if owner is None else f"under way in process {owner.pid} on {owner.hostname}"


_contenders: dict[Path, _Contender] = {}


@contextmanager
def claim(folder: Path, *, waiting: Callable[[str], None] | None) -> Iterator[filelock.SoftFileLease]:
    """Hold `folder` alone, on this machine and on others that share the file system.

    The lease names its holder's process and host. It ends with the block; after a crash the next process on the same
    host takes it over at once, another host after LEASE_S without a sign of life. Where the folder is held, `waiting`
    is told by whom, once, and this waits; Busy at once if it is None. See `lost` for the other side.
    """
    contender = _contenders.setdefault(folder.resolve(), _Contender(folder))
    if not contender.attempt():
        if waiting is None:
            raise Busy(contender.holder())
        waiting(contender.holder())
        while not contender.attempt():
            time.sleep(POLL_S)
    try:
        yield contender.lease
    finally:
        with suppress(OSError):  # on a disk that is gone; the lease then ends with the process
            contender.lease.release()


class Holder(NamedTuple):
    """Who has a run, as its lease says. alive: whether it was heard of in time."""

    host: str
    pid: int
    alive: bool


def holder(folder: Path) -> Holder | None:
    """Who holds `folder`, by one look; None where nobody does. On this host a process is looked for; of another, its
    last sign of life is held against this machine's clock, which is good enough to tell people and for nothing else."""
    lease = filelock.SoftFileLease(folder / LOCK, lease_duration=LEASE_S, thread_local=False)
    owner = lease.owner
    if owner is None:
        return None
    try:
        if owner.hostname == socket.gethostname():
            os.kill(owner.pid, 0)
            return Holder(owner.hostname, owner.pid, True)
        heard = Path(lease.lock_file).stat().st_mtime
    except PermissionError:
        return Holder(owner.hostname, owner.pid, True)  # somebody else's process
    except OSError:
        return Holder(owner.hostname, owner.pid, False)
    return Holder(owner.hostname, owner.pid, time.time() - heard < 1.5 * LEASE_S)


def free(folder: Path) -> bool:
    """Whether nobody holds `folder`; a holder's silence is only seen by who asks again and again."""
    with suppress(Busy), claim(folder, waiting=None):
        return True
    return False


def lost(lease: filelock.SoftFileLease) -> bool:
    """Whether somebody else may hold the folder, because this process was silent for too long."""
    owner = lease.owner
    return lease.compromise is not None or owner is None or owner.token != lease.token
