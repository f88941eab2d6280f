"""On a real GPU: what runs there, and what must be the same as on a CPU."""

from pathlib import Path

import pytest
import torch

from maskbench.api import degrade
from maskbench.bench import strategies as bench
from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.data.color_jitter import ColorJitter, jitter_colors
from maskbench.runs.plan import build_state, example_view, load_data, make_plan
from maskbench.runs.run import run
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import SQUARE, tensors_of
from tests.helpers.one_step import one_step
from tests.helpers.tiny_run import tiny_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.mark.parametrize("name", [name for name in REGISTRY.names() if name != "none"])
def test_every_strategy_trains(tmp_path: Path, name: str) -> None:
    few = {"data__limit": 128, "train__batch_size": 64, "train__epochs": 1, "train__warmup_epochs": 0}
    record = run(tiny_config(tmp_path, name, system__device="cuda", system__precision="bf16", probes="knn", **few))
    assert record.status == "complete", record.error
    assert record.environment["gpu"] and record.metrics["cost/peak_memory_mib"] > 0


@pytest.mark.parametrize("objective", ["simmim", "gmml", "dino", "ibot", "barlow"])
def test_every_objective_trains(tmp_path: Path, objective: str) -> None:
    record = run(tiny_config(tmp_path, "random", objective={"name": objective}, system__device="cuda", train__epochs=1))
    assert record.status == "complete", record.error


def test_every_probe_answers(tmp_path: Path) -> None:
    probes = "knn,linear,linear:blocks=2,lowshot,attentive:epochs=1,finetune:epochs=1,dense:images=200,robust,features"
    record = run(tiny_config(tmp_path, "random", system__device="cuda", train__epochs=1, probes=probes))
    assert record.status == "complete", record.error
    assert all(torch.isfinite(torch.tensor(value)) for value in record.metrics.values())


@pytest.mark.parametrize("name", ["random", "block", "gmml", "uniform"])
def test_masks_are_those_of_a_cpu(tmp_path: Path, name: str) -> None:
    """Bit for bit, what is hidden or weighed; crops, noise and targets to the rounding of float32."""
    found = []
    for device in ("cpu", "cuda"):
        planned, splits = load_data(make_plan(tiny_config(tmp_path, name, system__device=device)))
        images, view = example_view(planned, splits, build_state(planned, splits))
        found.append({"crops": images, **tensors_of(view)})
    here, there = found
    assert here.keys() == there.keys()
    for key, value in here.items():
        exact = value.dtype == torch.bool or key.startswith("weight")
        torch.testing.assert_close(
            there[key].cpu(), value, rtol=0, atol=0 if exact else 1e-4, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_deterministic_runs_are_the_same_to_the_last_digit(tmp_path: Path) -> None:
    """Only with deterministic algorithms are two runs that."""
    one, two = (run(tiny_config(tmp_path / name, "random", system__device="cuda", system__deterministic=True))
                for name in ("one", "two"))  # fmt: skip
    assert [row["loss"] for row in one.curve] == [row["loss"] for row in two.curve]


def test_every_strategy_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `bench strategies`, also those that train a network."""
    monkeypatch.setattr(bench, "GRIDS", {"32/4": SQUARE})
    monkeypatch.setattr(bench, "BATCH", 32)
    monkeypatch.setattr(bench, "MIN_TIMING_S", 1e-9)
    rows = bench.time_strategies(None, rounds=1).rows
    timed = {row.strategy for row in rows if row.device == "cuda" and row.us_per_image > 0}
    assert timed == {name for name in REGISTRY.names() if name != "none"}


def test_degrade_takes_images_on_the_gpu() -> None:
    """A strategy that builds a network, and one that counts in float32, in a loop with autocast."""
    images = torch.randn(8, 3, 32, 32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        for name in ("adios", "gmml"):
            assert degrade(name, images, patch_size=4).images.is_cuda


def test_colours_are_those_of_a_cpu() -> None:
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std, index = torch.full((3,), 0.5), torch.full((3,), 0.25), torch.arange(64)
    here, there = (
        jitter_colors(
            images.to(device),
            ColorJitter(blur=0.5),
            CounterRNG(sample_keys(index.to(device), 0)),
            mean.to(device),
            std.to(device),
        )
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of inductor's advice
@pytest.mark.parametrize("objective", ["mae", "ibot"])
def test_a_compiled_step_trains(tmp_path: Path, objective: str) -> None:
    compiled = {"system__device": "cuda", "system__precision": "bf16", "system__compile": True, "train__epochs": 1}
    record = run(tiny_config(tmp_path, "random", objective={"name": objective}, **compiled))
    assert record.status == "complete", record.error


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("random", "mae"), ("gmml", "gmml"), ("adios", "mae"), ("hard-patches", "mae"), ("random", "simmim"),
        ("random", "ibot"), ("random", "barlow"),
    ],
)  # fmt: skip
def test_a_step_never_waits(tmp_path: Path, name: str, objective: str) -> None:
    """Forward, backward and update, as far as torch notices: more than fake tensors do (test_no_sync.py). The
    first step may: constants go to the device, the optimizer's state comes to be."""
    config = tiny_config(tmp_path, name, objective={"name": objective}, system__device="cuda", system__precision="bf16")
    planned, splits = load_data(make_plan(config))
    state, index = build_state(planned, splits), torch.arange(64, device="cuda")
    one_step(planned, splits, state, index, backward=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        one_step(planned, splits, state, index, backward=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU here")
def test_another_gpu_is_used_measured_and_named(tmp_path: Path) -> None:
    before = torch.cuda.memory_allocated(0)
    record = run(tiny_config(tmp_path, "random", system__device="cuda:1", train__epochs=1))
    assert record.status == "complete" and record.metrics["cost/mask_ms"] > 0, record.error
    assert torch.cuda.memory_allocated(0) == before
    assert record.environment["gpu"] == torch.cuda.get_device_name(1)
    torch.cuda.set_device(0)
