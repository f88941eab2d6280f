"""The CPU: its name and features, the cores that this process may use, and work spread over them."""

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
BLOCK = 4096  # results that may wait in memory at a time


def core_count() -> int:
    """Number of cores that this process may use; a container or a scheduler may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_threads(function: Callable[[int], T], count: int) -> Iterator[T]:
    """Yield `function(0)`, `function(1)`, ... `function(count - 1)`, computed by one thread per core.

    It pays for functions that release the interpreter lock, such as those of Pillow and hashlib.
    """
    with ThreadPoolExecutor(core_count()) as pool:
        for first in range(0, count, BLOCK):
            yield from pool.map(function, range(first, min(first + BLOCK, count)))


def cpu_name() -> str:
    """The processor's name."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets such as amx_bf16 and avx512_bf16, and the vendor, e.g. AuthenticAMD; empty outside Linux."""
    info = {name.strip(): value for name, _, value in (line.partition(":") for line in _cpuinfo())}
    return frozenset((info.get("vendor_id", "") + " " + info.get("flags", "")).split())


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
