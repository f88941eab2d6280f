"""What `auto` means: a pure function of device type, CPU features and token count, never a stopwatch."""

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from maskbench.config.schema import RunConfig, System
from maskbench.errors import UsageError
from maskbench.runtime.cpu import cores, cpu_flags
from maskbench.runtime.launcher import launched

FAST_BF16 = (frozenset({"amx_bf16"}), frozenset({"avx512_bf16", "AuthenticAMD"}))  # any one of these
MOST_WORKERS = 32  # of 0.3 GiB each, most of which is torch
PLAIN_ATTENTION_BELOW = 256  # tokens; the CPU's fused backward is slow at short sequences


def resolve(config: RunConfig) -> RunConfig:
    """The configuration with every `auto` replaced by what it means here.

    device: cuda if there is one, else cpu. precision: bf16 where the hardware multiplies it fast (CUDA; CPUs with
    AMX, where ViT-T training goes 1.2 times as fast, and AMD's with AVX512-BF16, 1.6 times; Intel's without AMX take
    1.3 times as long as in fp32), else fp32. attention: plain on CPU below 256 tokens (1.8 times as fast in bf16
    training at 65 tokens), else fused. compile: off. workers: as many as cores, up to 32.
    """
    device = config.system.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError:
        raise UsageError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r} asked for, but torch sees no GPU; use --device cpu")
    if kind == "cuda" and index is not None and index >= torch.cuda.device_count():
        raise UsageError(f"device {device!r} asked for, but the last GPU here is cuda:{torch.cuda.device_count() - 1}")
    return _settled(config, device, kind)


def as_on_gpu(config: RunConfig) -> RunConfig:
    """The configuration with every `auto` replaced by what it means on a GPU, on a device that there is here: for runs
    that are planned on one machine and carried out on another."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _settled(on_device(config, device), device, "cuda")


def on_device(config: RunConfig, device: str) -> RunConfig:
    """The same run on another device."""
    return config.model_copy(update={"system": config.system.model_copy(update={"device": device})})


def with_workers(config: RunConfig, count: int) -> RunConfig:
    """The configuration with `count` processes that decode, up to 32, where it leaves that to us."""
    if config.system.workers != "auto":
        return config
    changes = {"workers": min(count, MOST_WORKERS)}
    return config.model_copy(update={"system": config.system.model_copy(update=changes)})


def _settled(config: RunConfig, device: str, kind: str) -> RunConfig:
    """With `auto` as it is meant on devices of this kind."""
    fast_bf16 = kind == "cuda" or any(wanted <= cpu_flags() for wanted in FAST_BF16)
    rows, cols = (side // config.model.patch_size for side in config.data.img_size)
    plain = kind == "cpu" and rows * cols < PLAIN_ATTENTION_BELOW
    sharing = launched().local_world if "TORCHELASTIC_RUN_ID" in os.environ else 1  # srun gives each process its own
    meant: dict[str, Any] = {
        "device": device,
        "precision": "bf16" if fast_bf16 else "fp32",
        "attention": "plain" if plain else "fused",
        "compile": False,
        "workers": min(max(1, cores() // sharing), MOST_WORKERS),
    }
    settings = config.system.model_dump()
    chosen = {key: meant[key] if value == "auto" else value for key, value in settings.items()}
    return config.model_copy(update={"system": System(**chosen)})


def settle(system: System) -> None:
    """Make a resolved system's GPU the current one, on which events and what names none go, and torch repeat itself to
    the last digit where the system asks for it; before anything runs on a GPU.

    On CPU it does so anyway, for a given number of threads. Operations that have no such algorithm raise, naming
    themselves.
    """
    device = torch.device(system.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if system.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(bool(system.deterministic))
    torch.backends.cudnn.benchmark = False


def autocast(system: System) -> AbstractContextManager[Any]:
    """The precision of a resolved system: bf16 matrix products with fp32 weights, or fp32 throughout."""
    if system.precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(system.device).type, torch.bfloat16)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held since `reset_peak_memory`: on the GPU by tensors, on the CPU resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        with Path("/proc/self/status").open() as status:
            peak = next(line for line in status if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if os.uname().sysname == "Linux" else 2**20)


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement, as far as the system allows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
