"""Which GPU a run uses, chosen before anything is there; with simulated GPUs."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from maskbench.data.splits import Splits
from maskbench.errors import UsageError
from maskbench.runs.plan import load_data, make_plan
from maskbench.runtime import hardware
from maskbench.runtime.environment import describe_environment
from tests.helpers.tiny_run import tiny_config


def test_a_runs_gpu_is_current_before_data_go_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, synchronisation and names go by the current one; cuBLAS reads its workspace as it starts."""
    done: list[Any] = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # put back at the end
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", done.append)
    monkeypatch.setattr(Splits, "to", lambda _, device: done.append((device, os.environ["CUBLAS_WORKSPACE_CONFIG"])))
    load_data(make_plan(tiny_config(tmp_path, system__device="cuda:1", system__deterministic=True)))
    second = torch.device("cuda:1")
    assert done == [second, True, (second, ":4096:8")]
    with pytest.raises(UsageError, match="there is no device 'cuda:2': the last GPU here is cuda:1"):
        make_plan(tiny_config(tmp_path, system__device="cuda:2"))


def test_what_has_no_number_leaves_the_current_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that share a run have each chosen theirs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("chosen already"))
    monkeypatch.setattr(Splits, "to", lambda splits, _: splits)
    load_data(make_plan(tiny_config(tmp_path, system__device="cuda")))


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ({"GenuineIntel", "avx512_bf16", "amx_bf16"}, "bf16"),
        ({"AuthenticAMD", "avx512_bf16"}, "bf16"),
        ({"GenuineIntel", "avx512_bf16", "avx512_fp16"}, "fp32"),  # 176 images/s in bf16, 228 in fp32
        ({"AuthenticAMD", "avx2"}, "fp32"),
        (set(), "fp32"),
    ],
    ids=["AMX", "AMD", "Intel", "older", "unknown"],
)
def test_half_precision_is_for_processors_that_are_faster_in_it(
    flags: set[str], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    assert make_plan(tiny_config(tmp_path, system__precision="auto")).config.system.precision == precision


def test_the_record_names_the_gpu_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"the GPU of {device}")
    assert describe_environment({"device": "cuda:1"})["gpu"] == "the GPU of cuda:1"
    assert describe_environment({"device": "cpu"})["gpu"] is None
