"""Ours against the loop that a user would write (benchmarks.plain), interleaved in one process, so that a machine's
moods hit both alike. ViT-T/4 at 32 px, mae at 0.75, decoder 96 x 2, batch 256."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.bounds import require_at_least
from benchmarks.plain import PlainMae, loader
from benchmarks.threads import one_thread
from maskbench.bench.step import StepBench, noise_splits
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.core.grid import Grid
from maskbench.runs.plan import build_state, make_plan
from maskbench.runtime.cpu import cpu_flags
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import make_batch

BATCH, ROUNDS, STEPS = 256, 7, 4  # of a round, as many as the loader's workers have ready at most
WORKERS = 2
DECODER = {"decoder_width": 96, "decoder_depth": 2, "decoder_heads": 3}
AT_LEAST = 2.5 if "amx_bf16" in cpu_flags() else 1.1  # times the images a second


def bench_of(strategy: str, **changes: Any) -> StepBench:
    """Our step on generated images, ready."""
    settings = {
        "strategy": strategy, "objective": {"name": "mae", "parameters": DECODER}, "regime": "matched", "ratio": 0.75,
        "model.kwargs": {}, "train.batch_size": BATCH, "system.device": "cpu", **changes,
    }  # fmt: skip
    planned = make_plan(parse_config(merge(load_preset("cifar10-cpu"), settings)))
    splits = noise_splits(planned, 2 * BATCH)
    bench = StepBench(planned, splits, build_state(planned, splits))
    bench.run_step()
    bench.keep_examples()
    return bench


class PlainStep:
    """The plain loop's step, with images from a loader or the same ones again."""

    def __init__(self, pixels: Tensor, *, loaded: bool) -> None:
        self.model = PlainMae(image=32, patch=4, ratio=0.75, **DECODER)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
        self.batches = self._batches(loader(pixels, BATCH, WORKERS)) if loaded else None
        self.images = torch.randn(BATCH, 3, 32, 32)

    def _batches(self, loaded: Any) -> Iterator[Tensor]:
        while True:
            yield from loaded

    def __call__(self) -> None:
        loss = self.model(self.images if self.batches is None else next(self.batches))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def seconds(call: Callable[[], Any], steps: int) -> float:
    """A step, of `steps` in a row."""
    start = time.perf_counter()
    for _ in range(steps):
        call()
    return (time.perf_counter() - start) / steps


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_step(benchmark: BenchmarkFixture, compiled: bool) -> None:
    """At least 2.5 times as fast with AMX, 1.1 times without, with the same parameters."""
    pixels = torch.randint(0, 256, (4096, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    calls = {
        "ours": bench_of("random", **{"system.compile": compiled}).run_step,
        "plain": PlainStep(pixels, loaded=True),
    }
    calls["plain, images at hand"] = PlainStep(pixels, loaded=False)
    for call in calls.values():
        seconds(call, 2)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(seconds(call, STEPS))
    benchmark.pedantic(calls["ours"], rounds=5)
    for name in ("plain", "plain, images at hand"):
        report(
            benchmark,
            f"images/s over those of {name}",
            [b / a for a, b in zip(times["ours"], times[name], strict=True)],
        )
    report(benchmark, "images/s", [BATCH / each for each in times["ours"]])
    ratio = statistics.median(benchmark.extra_info["images/s over those of plain"])
    require_at_least("images/s over those of the plain loop", ratio, AT_LEAST)


def test_same_parameters() -> None:
    head = bench_of("random").trainer.state.head
    ours = sum(each.numel() for each in head.parameters()) - head.encoder.mask_token.numel()
    plain = PlainMae(image=32, patch=4, ratio=0.75, **DECODER)
    assert ours == sum(each.numel() for each in plain.parameters() if each.requires_grad)


def report(benchmark: BenchmarkFixture, name: str, values: list[float]) -> None:
    """Keeps the numbers with the benchmark and prints their median and range."""
    benchmark.extra_info[name] = [round(value, 3) for value in values]
    print(f"\n{name}: median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}")


def random_mask(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """MAE's rule, an image at a time: as many as the ratio says, out of a permutation."""
    mask = np.zeros(rows * cols, dtype=bool)
    mask[rng.permutation(rows * cols)[: round(0.75 * rows * cols)]] = True
    return mask


def block_mask(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """BEiT's rule (arXiv 2106.08254, algorithm 1): rectangles of 16 patches or more, aspect 0.3 to 3.3, until 40 % and
    more are hidden."""
    mask = np.zeros((rows, cols), dtype=bool)
    wanted = 0.4 * rows * cols
    for _ in range(1000):
        if mask.sum() >= wanted:
            break
        area = rng.uniform(min(16, wanted), max(16, wanted - mask.sum()))
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < height <= rows and 0 < width <= cols:
            top, left = rng.integers(rows - height + 1), rng.integers(cols - width + 1)
            mask[top : top + height, left : left + width] = True
    return mask


def gmml_image(rng: np.random.Generator, images: np.ndarray, place: int) -> np.ndarray:
    """GMML's rule (arXiv 2205.14986): rectangles of pixels, noise in some and another image's pixels in others, until
    the share is reached."""
    image, size = images[place].copy(), images.shape[-1]
    covered = np.zeros((size, size), dtype=bool)
    other = images[rng.integers(len(images))]
    while covered.mean() < 0.7:
        height, width = rng.integers(2, size // 4 + 1, 2)
        top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
        cut = np.s_[:, top : top + height, left : left + width]
        image[cut] = rng.normal(size=image[cut].shape) if rng.random() < 0.35 else other[cut]
        covered[cut[1:]] = True
    return image


@pytest.mark.parametrize("grid", [Grid(8, 8, 4), Grid(14, 14, 16)], ids=["32/4", "224/16"])
@pytest.mark.parametrize("name", ["random", "block", "gmml"])
def test_masks(benchmark: BenchmarkFixture, name: str, grid: Grid) -> None:
    """Ours for a batch on one core, against a loop over its images."""
    strategy, rng = REGISTRY.create(name), np.random.default_rng(0)
    batch = make_batch(strategy, BATCH, grid)
    images = batch.images.numpy()

    def loop() -> None:
        for place in range(BATCH):
            if name == "gmml":
                gmml_image(rng, images, place)
            else:
                {"random": random_mask, "block": block_mask}[name](rng, grid.rows, grid.cols)

    def ours() -> None:
        batch.view(strategy)

    with one_thread():
        seconds(ours, 3), seconds(loop, 1)
        ratios = [seconds(loop, 1) / seconds(ours, 10) for _ in range(ROUNDS)]
        benchmark.pedantic(ours, rounds=5, iterations=10)
    report(benchmark, "times as fast as a loop over images", ratios)
