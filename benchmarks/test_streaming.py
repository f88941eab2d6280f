"""Streamed images a second, against processes that do nothing but decode the same files, as ours do and by Pillow."""

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.bounds import require_at_least
from maskbench import data
from maskbench.data.encoded_images import REDUCING_GAP
from maskbench.data.prefetch import decoder_environment, prefetch
from maskbench.data.streaming import StreamedImages
from maskbench.runtime.cpu import core_count

AT_LEAST = 0.95
ROUNDS = 9
BATCH, SECONDS = 64, 4.0  # of a measurement, in which either side has all cores


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> StreamedImages:
    """Photographs of 375 x 500, as ImageNet's are on average, for a model of 224 x 224."""
    root = tmp_path_factory.mktemp("photographs")
    for part, count in (("train", 640), ("test", 10)):
        for number in range(count):
            path = root / part / "ab"[number % 2] / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng(number).integers(0, 256, (75, 100, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    train = data.load_dataset(str(root), (224, 224), 3, None, None, 0).train
    assert isinstance(train, StreamedImages)
    return train


def decode_by_pillow(split: StreamedImages, number: int) -> None:
    """What a loop that one writes oneself would do."""
    rows, cols, _ = split.canvas
    with Image.open(split.encoded.files[number]) as image:
        image.draft(None, (round(REDUCING_GAP * cols), round(REDUCING_GAP * rows)))
        image.load()
    converted = image if image.mode == "RGB" else image.convert("RGB")
    if converted.size != (cols, rows):
        converted = converted.resize((cols, rows), Image.Resampling.BILINEAR)
    np.asarray(converted)


def decode_by_maskbench(split: StreamedImages, number: int) -> None:
    """What the loader's processes do for an image, which then goes nowhere."""
    split.encoded.decode(number, split.canvas)


def decode_on_request(connection: Connection, split: StreamedImages) -> None:
    """In a process of its own: receives a way to decode and a number of seconds, decodes images for that time in random
    order, as the loader has to, and sends back how many they were."""
    torch.set_num_threads(1)
    order = itertools.cycle(torch.randperm(len(split)).tolist())
    for decode, seconds in iter(connection.recv, None):
        end, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            decode(split, next(order))
            done += 1
        connection.send(done)


class BareDecoders:
    """As many of these processes as there are cores."""

    def __init__(self, split: StreamedImages) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for _ in range(core_count()):
            ours, theirs = context.Pipe()
            with decoder_environment():  # the same memory allocator as theirs whom they are compared with
                context.Process(target=decode_on_request, args=(theirs, split), daemon=True).start()
            self.pipes.append(ours)

    def images_per_s(self, decode: Callable[[StreamedImages, int], None], seconds: float) -> float:
        for pipe in self.pipes:
            pipe.send((decode, seconds))
        return sum(pipe.recv() for pipe in self.pipes) / seconds

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)


def batches(split: StreamedImages) -> Iterator[torch.Tensor]:
    for epoch in itertools.count():
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(epoch))
        yield from order[: len(order) // BATCH * BATCH].split(BATCH)


def images_per_s(split: StreamedImages, seconds: float) -> float:
    """From a start with nothing prepared, after a warm-up, with as many workers as cores."""
    coming, asked = itertools.tee(batches(split))
    with prefetch(split, coming, core_count()) as prepared:
        for index in itertools.islice(asked, 4 * core_count()):  # what was prepared while processes were still starting
            prepared.take(index)
        start, done = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            done += len(prepared.take(next(asked)))
        return done / (time.perf_counter() - start)


def test_at_the_decode_limit_of_the_cores(split: StreamedImages, benchmark: Any) -> None:
    """One after the other, ROUNDS times; the medians of the ratios count, so that what else the machine does makes no
    difference if it does so evenly over a round."""
    alone, ways = BareDecoders(split), (decode_by_maskbench, decode_by_pillow)
    ratios: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for way in ways:
        alone.images_per_s(way, 1.0)
    for _ in range(ROUNDS):
        before = [alone.images_per_s(way, SECONDS / 2) for way in ways]
        streamed = images_per_s(split, SECONDS)
        after = [alone.images_per_s(way, SECONDS / 2) for way in reversed(ways)][::-1]
        for way, *twice in zip(ways, before, after, strict=True):
            ratios[way.__name__].append(streamed / statistics.mean(twice))
        print(f"streamed {streamed:.0f} images/s:", {name: round(of[-1], 3) for name, of in ratios.items()})
    alone.end()
    medians = {name: statistics.median(of) for name, of in ratios.items()}
    benchmark.extra_info.update(ratios=ratios, medians=medians)
    print(medians)
    benchmark.pedantic(split.take, (torch.arange(BATCH),), rounds=3)
    for name, ratio in medians.items():
        require_at_least(f"streamed images/s over decoding alone ({name})", ratio, AT_LEAST)
