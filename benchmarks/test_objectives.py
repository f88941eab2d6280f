"""What dropping hidden tokens saves, and what a step of each objective costs."""

import statistics
import time
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bounds import require_at_least
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.step import Trainer

BATCH = 128
ROUNDS = 15
AT_LEAST = 2.2  # times as fast per image with a quarter of the tokens as with all


class Step:
    """One training step of ViT-T/4 at 32 px, again and again on the same images."""

    def __init__(self, strategy: str, objective: str, folder: Path) -> None:
        changes = {
            "strategy": strategy, "objective": objective, "regime": "paper", "ratio": None, "output": str(folder),
            "data.dataset": "shapes", "data.limit": BATCH, "train.batch_size": BATCH, "train.epochs": 1_000,
            "model.kwargs": {},
        }  # fmt: skip
        planned, splits = load_data(make_plan(parse_config(merge(load_preset("cifar10-cpu"), changes))))
        self.state = build_state(planned, splits)
        self.index = torch.arange(BATCH, device=splits.train.labels.device)
        self.trainer = Trainer(planned.config, splits, planned.strategy, self.state, Stopwatch(self.index.device))
        self.state.head.train()

    def __call__(self) -> None:
        self.trainer.step(self.index, 0, 0.5, 0.5)
        self.state.step += 1
        if self.index.device.type == "cuda":
            torch.cuda.synchronize()


DECODER = "decoder_width=96:decoder_depth=2:decoder_heads=3"


def test_mae_is_faster_than_with_all_tokens(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """`noise` in pixels shows all 64 tokens, so encoder and decoder are the same and only the dropping differs."""
    dropped = Step("random:ratio=0.75", f"mae:{DECODER}", tmp_path)
    whole = Step("noise:space=pixel", f"mae:{DECODER}", tmp_path)
    for step in (dropped, whole) * 3:
        step()
    ratios = []

    def once(step: Step) -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    for _ in range(ROUNDS):
        ratios.append(once(whole) / once(dropped))
    benchmark.extra_info["times as fast"] = [round(ratio, 2) for ratio in sorted(ratios)]
    benchmark.pedantic(dropped, rounds=5)
    print(f"times as fast as with all tokens: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to", end=" ")
    print(f"{max(ratios):.2f}")
    require_at_least("times as fast as with all tokens", statistics.median(ratios), AT_LEAST)


@pytest.mark.parametrize(
    ("objective", "strategy"),
    [
        (f"mae:{DECODER}", "random"),
        ("simmim", "random-coarse"),
        ("gmml", "gmml"),
        ("dino:prototypes=1024", "attmask-high"),
        ("ibot:prototypes=1024", "attmask-high"),
        ("barlow:width=512", "none"),
    ],
)
def test_steps(benchmark: BenchmarkFixture, objective: str, strategy: str, tmp_path: Path) -> None:
    benchmark.group = f"a step of {BATCH} images, ViT-T/4 at 32 px"
    benchmark.pedantic(Step(strategy, objective, tmp_path), rounds=5, warmup_rounds=2)
