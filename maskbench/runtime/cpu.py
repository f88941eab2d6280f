"""The CPU cores that this process has, and work that is spread over them."""

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
BLOCK = 4096  # results that may wait at a time


def cores() -> int:
    """Those that it may run on, which a container or a scheduler may have cut down."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def each(function: Callable[[int], T], count: int) -> Iterator[T]:
    """`function` of 0, 1, ... count - 1, in order, by a thread for each core: for work that releases the interpreter
    lock, as that of Pillow and hashlib does."""
    with ThreadPoolExecutor(cores()) as pool:
        for first in range(0, count, BLOCK):
            yield from pool.map(function, range(first, min(first + BLOCK, count)))


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags such as amx_bf16 and avx512_bf16, as Linux names them, and the vendor, e.g. AuthenticAMD;
    empty elsewhere."""
    told = {name.strip(): value for name, _, value in (line.partition(":") for line in _cpuinfo())}
    return frozenset((told.get("vendor_id", "") + " " + told.get("flags", "")).split())


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
