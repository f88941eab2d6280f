"""What `auto` means: a pure function of device type, CPU features and number of tokens. Nothing is timed."""

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from maskbench.config.settings import RunConfig, System
from maskbench.errors import UsageError, quoted
from maskbench.runtime.cpu import core_count, cpu_flags
from maskbench.runtime.launcher import detect_launch

FAST_BF16 = (frozenset({"amx_bf16"}), frozenset({"avx512_bf16", "AuthenticAMD"}))  # any one of these sets
DEVICES = ("cpu", "cuda", "mps")
MAX_WORKERS = 32  # each takes 0.3 GiB, most of it for torch
PLAIN_ATTENTION_BELOW = 256  # tokens; the CPU's fused backward is slow at short sequences


def resolve_auto(config: RunConfig) -> RunConfig:
    """Replace every `auto` of a configuration by what it means on this machine.

    - device: cuda if there is a GPU, else cpu.
    - precision: bf16 where the hardware multiplies it fast, else fp32. That is on CUDA, on CPUs with AMX (training a
      ViT-T is 1.2 times as fast) and on AMD's with AVX512-BF16 (1.6 times); Intel's without AMX take 1.3 times as long.
    - attention: plain on a CPU below 256 tokens (1.8 times as fast in bf16 training at 65 tokens), else fused.
    - compile: off.
    - workers: as many as cores, up to 32.

    Raises:
        UsageError: The device does not exist here.
    """
    device = config.system.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError:
        raise UsageError(f"unknown device {quoted(device)}; use cpu, cuda or cuda:N") from None
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("there is no device 'mps': torch sees no GPU of Apple; use --device cpu")
    if kind not in DEVICES:
        raise UsageError(f"device {quoted(device)} is not supported; use cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"there is no device {device!r}: torch sees no GPU; use --device cpu")
    if kind == "cuda" and index is not None and index >= torch.cuda.device_count():
        raise UsageError(f"there is no device {device!r}: the last GPU here is cuda:{torch.cuda.device_count() - 1}")
    return _replace_auto(config, device, kind)


def resolve_auto_for_gpu(config: RunConfig) -> RunConfig:
    """Replace every `auto` by what it means on a GPU, for runs that are planned here and executed on another machine.

    The device of the result exists here.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _replace_auto(with_device(config, device), device, "cuda")


def with_device(config: RunConfig, device: str) -> RunConfig:
    """The same configuration with another device."""
    return config.model_copy(update={"system": config.system.model_copy(update={"device": device})})


def with_workers(config: RunConfig, count: int) -> RunConfig:
    """The configuration with `count` workers, up to 32, where it says `auto`."""
    if config.system.workers != "auto":
        return config
    changes = {"workers": min(count, MAX_WORKERS)}
    return config.model_copy(update={"system": config.system.model_copy(update=changes)})


def _replace_auto(config: RunConfig, device: str, kind: str) -> RunConfig:
    """kind: "cpu" or "cuda", which decides what `auto` means."""
    fast_bf16 = kind == "cuda" or any(wanted <= cpu_flags() for wanted in FAST_BF16)
    rows, cols = (side // config.model.patch_size for side in config.data.img_size)
    plain = kind == "cpu" and rows * cols < PLAIN_ATTENTION_BELOW
    # torchrun's processes share the cores of a machine; srun gives each its own.
    sharing = detect_launch().local_world_size if "TORCHELASTIC_RUN_ID" in os.environ else 1
    defaults: dict[str, Any] = {
        "device": device,
        "precision": "bf16" if fast_bf16 else "fp32",
        "attention": "plain" if plain else "fused",
        "compile": False,
        "workers": min(max(1, core_count() // sharing), MAX_WORKERS),
    }
    settings = config.system.model_dump()
    chosen = {key: defaults[key] if value == "auto" else value for key, value in settings.items()}
    return config.model_copy(update={"system": System(**chosen)})


def configure_torch(system: System) -> None:
    """Make the GPU of a resolved system the current one, and torch deterministic where the system says so.

    Call it before anything runs on a GPU. On a CPU torch is deterministic for a given number of threads anyway. With
    `deterministic`, an operation without a deterministic algorithm raises an error that names it.
    """
    device = torch.device(system.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if system.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(bool(system.deterministic))
    torch.backends.cudnn.benchmark = False


def autocast(system: System) -> AbstractContextManager[Any]:
    """A context in the precision of a resolved system: bf16 matrix products with fp32 weights, or fp32 throughout."""
    if system.precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(system.device).type, torch.bfloat16)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory since `reset_peak_memory`, in MiB: of tensors on a GPU, of the resident process on a CPU."""
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
    """Start a new measurement of `peak_memory_mib`, as far as the system allows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
