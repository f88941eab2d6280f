"""Cost of a training step at the cifar10-cpu preset's size: ViT 128 wide, 6 deep, 32 px in patches of 4, batch 256."""

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bounds import require_at_least, require_at_most
from maskbench.bench.step import time_step
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.loop import pretrain
from maskbench.training.step import Trainer

STEPS = 8


@pytest.mark.parametrize("name", ["random", "gmml", "attmask-high", "zoom-in-mask"])
def test_steps(benchmark: BenchmarkFixture, name: str, tmp_path: Path) -> None:
    changes = {"data.dataset": "shapes", "data.limit": STEPS * 256, "train.epochs": 1, "train.warmup_epochs": 0}
    config = parse_config(merge(load_preset("cifar10-cpu"), {**changes, "strategy": name, "output": str(tmp_path)}))
    planned, splits = load_data(make_plan(config))

    def steps() -> None:
        state = build_state(planned, splits)
        watch = Stopwatch(splits.train.labels.device)
        trainer = Trainer(planned.config, splits, planned.strategy, state, watch)
        pretrain(trainer, online=dict, on_step=lambda *_: None, on_epoch=lambda _: None)

    benchmark.group = f"{STEPS} steps of 256"
    benchmark.pedantic(steps, rounds=5, warmup_rounds=1)


def test_phases_add_up_to_the_step(benchmark: BenchmarkFixture) -> None:
    """Roughly: the phases are means, the step is a median, and some work belongs to no phase."""
    config = parse_config(load_preset("cifar10-cpu"))
    found = benchmark.pedantic(lambda: time_step(config, 3, generated=True), rounds=1)
    phases = ("data", "augment", "mask", "teacher", "forward", "backward", "optimizer")
    ratio = sum(found.phase_ms(name) for name in phases) / found.step_ms
    require_at_least("time of all phases / time of a step", ratio, 0.4)
    require_at_most("time of all phases / time of a step", ratio, 2.5)
