"""Who works on a run: a lease among its files, so that no two processes do the same one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

LEASE_S = 60.0  # silence after which another process may take over; the holder is heard of every third of it
POLL_S = 0.5
LOCK = "running.lock"


class Busy(Exception):
    """Another process works on the run; the message says which."""


@contextmanager
def claim(folder: Path, *, waiting: Callable[[str], None] | None) -> Iterator[filelock.SoftFileLease]:
    """Hold `folder` alone, on this machine and on others that share the file system.

    The lease names its holder's process and host. It ends with the block; after a crash the next process on the same
    host takes it over at once, another host after LEASE_S without a sign of life. Where the folder is held, `waiting`
    is told by whom, once, and this waits; Busy at once if it is None. `lease.compromise` is not None once somebody else
    took over because this process was silent for too long.
    """
    lease = filelock.SoftFileLease(folder / LOCK, lease_duration=LEASE_S, thread_local=False)
    try:
        lease.acquire(timeout=0)
    except filelock.Timeout:
        owner = lease.owner
        held = "held" if owner is None else f"under way in process {owner.pid} on {owner.hostname}"
        if waiting is None:
            raise Busy(held) from None
        waiting(held)
        lease.acquire(poll_interval=POLL_S)
    try:
        yield lease
    finally:
        with suppress(OSError):  # on a disk that is gone; the lease then ends with the process
            lease.release()
