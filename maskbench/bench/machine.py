"""The machine that a benchmark ran on, and the most that it can do."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from maskbench.runtime.cpu import cpu_name

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices: so large that nothing but arithmetic counts
ROUNDS = 5


@dataclass(frozen=True)
class Machine:
    """What a benchmark ran on.

    Attributes:
        cpu: Name of the processor.
        gpu: Name of the GPU; None for measurements on the CPU.
        threads: Of torch.
        torch: Its version.
    """

    cpu: str
    gpu: str | None
    threads: int
    torch: str


def describe_machine(device: torch.device) -> Machine:
    """The machine, for measurements on `device`."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return Machine(cpu_name(), gpu, torch.get_num_threads(), torch.__version__)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(function: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds of one call, from `count` calls in a row, with all work of the device that they start."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        function()
    synchronize(device)
    return (time.perf_counter() - start) / count


def measure_matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of square matrix products in `dtype` on all threads; the best of ROUNDS, because it is a bound."""
    side = SIDES[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = [seconds_per_call(lambda: one @ other, 1, device) for _ in range(ROUNDS + 1)]
    return float(2 * side**3 / min(times[1:]))  # the first is warm-up
