"""What a record says about where its run was made: versions, source revision and machine."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from maskbench.runtime import collectives
from maskbench.runtime.cpu import cpu_name

PACKAGES = ("maskbench", "torch", "torchvision", "timm", "numpy", "scipy", "pandas", "scikit-learn")


def describe_environment(resolved: dict[str, Any]) -> dict[str, Any]:
    """The `environment` of a record: `resolved` (device, precision, ...), versions, source revision and machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name(resolved["device"]) if resolved["device"].startswith("cuda") else None
    return {
        **resolved,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "git": _git_revision(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": collectives.world_size(),
        "gpu": gpu,
    }


def _git_revision() -> str | None:
    """The commit of maskbench's own checkout, with + where it has changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip()
