"""The lease of a run's folder: a file that says which process works on the run, so that no two do the same one."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import filelock

LEASE_S = 60.0  # silence after which another process may take over; the holder renews it three times as often
POLL_S = 0.5
LOCK = "running.lock"


class Busy(Exception):
    """Another process works on the run; the message says which."""


class _Candidate:
    """This process as a candidate for a folder's lease, kept between tries: silence is measured by watching."""

    def __init__(self, folder: Path) -> None:
        self.lease = filelock.SoftFileLease(folder / LOCK, lease_duration=LEASE_S, thread_local=False)
        self.last_seen: tuple[int, int] | None = None
        self.since = 0.0

    def try_to_acquire(self) -> bool:
        """Whether the lease is ours now."""
        if self.lease.is_locked:
            return False  # by another thread
        try:
            self.lease.acquire(timeout=0)
        except filelock.Timeout:
            if not self._is_abandoned():
                return False
            # On file systems that cannot exchange two names, such as NFS, the library leaves stale leases alone.
            self.lease.force_break()
            with suppress(filelock.Timeout):
                self.lease.acquire(timeout=0)
        return bool(self.lease.is_locked)

    def _is_abandoned(self) -> bool:
        """Whether the holder has been silent for so long that the library should have taken the lease over."""
        with suppress(OSError):
            about = Path(self.lease.lock_file).stat()
            if self.last_seen != (about.st_ino, about.st_mtime_ns):
                self.last_seen, self.since = (about.st_ino, about.st_mtime_ns), time.monotonic()
            return time.monotonic() - self.since > 1.5 * LEASE_S
        return False

    def describe_holder(self) -> str:
        owner = self.lease.owner
        return "held" if owner is None else f"under way in process {owner.pid} on {owner.hostname}"


_candidates: dict[Path, _Candidate] = {}


@contextmanager
def hold_lease(folder: Path, *, waiting: Callable[[str], None] | None) -> Iterator[filelock.SoftFileLease]:
    """Hold `folder` alone, on this machine and on others that share the file system.

    The lease names its holder's process and host. It ends with the block. After a crash the next process on the
    same host takes it over at once, another host after LEASE_S without a sign of life.

    Args:
        folder: The run's folder, which exists.
        waiting: Called once with the holder's name where the folder is held; then this waits. None: do not wait.

    Raises:
        Busy: The folder is held, and `waiting` is None.
    """
    candidate = _candidates.setdefault(folder.resolve(), _Candidate(folder))
    if not candidate.try_to_acquire():
        if waiting is None:
            raise Busy(candidate.describe_holder())
        waiting(candidate.describe_holder())
        while not candidate.try_to_acquire():
            time.sleep(POLL_S)
    try:
        yield candidate.lease
    finally:
        with suppress(OSError):  # on a disk that is gone; the lease then ends with the process
            candidate.lease.release()


class Holder(NamedTuple):
    """The process that holds a run, as its lease says. alive: whether it gave a sign of life in time."""

    host: str
    pid: int
    alive: bool


def read_holder(folder: Path) -> Holder | None:
    """Who holds `folder`, by one look; None where nobody does.

    On this host the process is looked for. Of another host its last sign of life is compared with this machine's clock,
    which is good enough to inform people and for nothing else.
    """
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
    except (OSError, OverflowError):
        return Holder(owner.hostname, owner.pid, False)
    return Holder(owner.hostname, owner.pid, time.time() - heard < 1.5 * LEASE_S)


def is_free(folder: Path) -> bool:
    """Whether nobody holds `folder`. Only repeated calls notice that a holder is silent."""
    with suppress(Busy), hold_lease(folder, waiting=None):
        return True
    return False


def is_lost(lease: filelock.SoftFileLease) -> bool:
    """Whether somebody else may hold the folder, because this process was silent for too long."""
    owner = lease.owner
    return lease.compromise is not None or owner is None or owner.token != lease.token
