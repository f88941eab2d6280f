"""What a machine can do at most, against which everything else is measured."""

import time

import torch

from maskbench.runtime.cpu import cpu_name

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices: large enough that nothing but arithmetic counts
ROUNDS = 5


def wait(device: torch.device) -> None:
    """Until the device has done everything it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of square matrix products in `dtype`, all threads; the best of several, because it is a bound."""
    side = SIDES[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(ROUNDS + 1):
        wait(device)
        start = time.perf_counter()
        _ = one @ other
        wait(device)
        times.append(time.perf_counter() - start)
    return float(2 * side**3 / min(times[1:]))


def described(device: torch.device) -> dict[str, str | int | None]:
    """Processor, GPU, threads and torch's version."""
    return {
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
