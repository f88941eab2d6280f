"""Cost of a training step at the cifar10-cpu preset's size: ViT 128 wide, 6 deep, 32 px in patches of 4, batch 256."""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.config.schema import merge, parse, preset
from maskbench.runs.plan import build, load_splits, plan
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.loop import pretrain

STEPS = 8


@pytest.mark.parametrize("name", ["random", "gmml", "attmask-high", "zoom-in-mask"])
def test_steps(benchmark: BenchmarkFixture, name: str, tmp_path: Path) -> None:
    changes = {"data.dataset": "shapes", "data.limit": STEPS * 256, "train.epochs": 1, "train.warmup_epochs": 0}
    config = parse(merge(preset("cifar10-cpu"), {**changes, "strategy": name, "output": str(tmp_path)}))
    planned, splits = load_splits(plan(config))

    def steps() -> None:
        state = build(planned, splits)
        watch = Stopwatch(splits.train.labels.device)
        pretrain(
            planned.config,
            splits,
            planned.strategy,
            state,
            watch,
            online=dict,
            on_step=lambda *_: None,
            on_epoch=lambda _: None,
        )

    benchmark.group = f"{STEPS} steps of 256"
    benchmark.pedantic(steps, rounds=5, warmup_rounds=1)
