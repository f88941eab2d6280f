"""On a real GPU: what runs there, and what must be the same as on a CPU."""

from pathlib import Path

import pytest
import torch

from maskbench.pipeline import run
from maskbench.plan import build, load_splits, pictured, plan
from maskbench.strategy import REGISTRY
from tests.tiny import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.mark.parametrize("name", [name for name in REGISTRY.names() if name != "none"])
def test_every_strategy_trains(tmp_path: Path, name: str) -> None:
    few = {"data__limit": 128, "train__batch_size": 64, "train__epochs": 1, "train__warmup_epochs": 0}
    record = run(tiny(tmp_path, name, system__device="cuda", system__precision="bf16", probes="knn", **few))
    assert record.status == "complete", record.error
    assert record.environment["gpu"] and record.metrics["cost/peak_memory_mib"] > 0


@pytest.mark.parametrize("objective", ["simmim", "gmml", "dino", "ibot", "barlow"])
def test_every_objective_trains(tmp_path: Path, objective: str) -> None:
    record = run(tiny(tmp_path, "random", objective={"name": objective}, system__device="cuda", train__epochs=1))
    assert record.status == "complete", record.error


def test_every_probe_answers(tmp_path: Path) -> None:
    probes = "knn,linear,linear:blocks=2,lowshot,attentive:epochs=1,finetune:epochs=1,dense:images=200,robust,features"
    record = run(tiny(tmp_path, "random", system__device="cuda", train__epochs=1, probes=probes))
    assert record.status == "complete", record.error
    assert all(torch.isfinite(torch.tensor(value)) for value in record.metrics.values())


@pytest.mark.parametrize("name", ["random", "block", "gmml", "uniform"])
def test_masks_are_those_of_a_cpu(tmp_path: Path, name: str) -> None:
    """Bit for bit, crops to the rounding of float32."""
    found = []
    for device in ("cpu", "cuda"):
        planned, splits = load_splits(plan(tiny(tmp_path, name, system__device=device)))
        found.append(pictured(planned, splits, build(planned, splits)))
    (images, view), (images_there, view_there) = found
    torch.testing.assert_close(images, images_there.cpu(), rtol=0, atol=1e-4)
    if view.hidden is not None and view_there.hidden is not None:
        assert torch.equal(view.hidden, view_there.hidden.cpu())


def test_a_resumed_run_repeats_itself(tmp_path: Path) -> None:
    """Only with deterministic algorithms are two runs the same to the last digit."""
    one, two = (run(tiny(tmp_path / name, "random", system__device="cuda", system__deterministic=True))
                for name in ("one", "two"))  # fmt: skip
    assert [row["loss"] for row in one.curve] == [row["loss"] for row in two.curve]
