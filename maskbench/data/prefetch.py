"""Batches that are read and decoded ahead of their use, by processes that do nothing else.

They write into memory that is shared and used again and again, a slot for each batch under way. Were every batch handed
over in memory of its own, as a DataLoader does by itself, getting that memory from the system and joining the parts
would take a fifth as long as decoding. And whichever process is free takes the next piece: where each has its turn, as
in a DataLoader, the fast ones wait for the slowest.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskbench.data.encoded_images import Encoded
from maskbench.data.splits import Images, Split
from maskbench.data.streaming import Streamed
from maskbench.errors import Failure, UsageError

PIECE_BYTES = 2**24  # of pixels that a process makes at a time: tens of milliseconds of work
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # glibc's; else no harm
AHEAD = 2  # pieces waiting or under way for each process, at least


@contextmanager
def ahead(split: Split, coming: Iterable[Tensor], workers: int | Literal["auto"]) -> Iterator[Split]:
    """Within the block, `take` of the split that it gives must be called with the index tensors `coming`, one after the
    other, of which none is longer than the first; what it returns holds until the next call.

    Where images are streamed, `workers` processes prepare them in the meantime; with 0 of them, and where images are in
    memory, nothing is prepared. Failure, with the remedy, where a process dies or an image can no longer be read.
    """
    coming = iter(coming)
    first = next(coming, None)
    if not isinstance(split, Streamed) or workers == 0 or first is None:
        yield split
        return
    assert isinstance(workers, int), "resolved"
    prepared = Prepared.of(split, first, chain([first], coming), workers)
    try:
        prepared.start()
        yield prepared
    except BrokenProcessPool:
        prepared.end()
        raise Failure(_told({process.exitcode for process in prepared.processes}, workers)) from None
    finally:
        prepared.end()


class DecodingProcess(SpawnProcess):
    """One that a pool of which another process has died can end: SIGTERM, which it would send, is never heard."""

    terminate = SpawnProcess.kill


class Context(SpawnContext):
    """Processes that start anew, without what this one holds."""

    Process = DecodingProcess


class Batch(NamedTuple):
    """One that is under way: what was asked for, where it goes, and what is to be heard of each piece."""

    asked: Tensor
    slot: int
    pieces: list[Future[str | None]]


@dataclass(frozen=True, kw_only=True)
class Prepared(Streamed):
    """A streamed split whose next batches are on their way.

    coming: what is to be asked for. slots: (slots, B, H, W, C) uint8, shared, one of them for the batch in use.
    per_batch: pieces in a batch.
    """

    coming: Iterator[Tensor]
    slots: Tensor
    per_batch: int
    pool: ProcessPoolExecutor
    processes: list[BaseProcess] = field(default_factory=list)
    under_way: deque[Batch] = field(default_factory=deque)

    @classmethod
    def of(cls, split: Streamed, first: Tensor, coming: Iterator[Tensor], workers: int) -> "Prepared":
        """With room for the batches under way and for the one in use."""
        per_batch = max(1, ceil(len(first) * int(split.shape.prod()) / PIECE_BYTES))
        batches = ceil(AHEAD * workers / per_batch) + 1
        slots = torch.empty((batches, len(first), *split.canvas), dtype=torch.uint8).share_memory_()
        pool = ProcessPoolExecutor(workers, Context(), _begin, (split.encoded, slots))
        return cls(**vars(split), coming=coming, slots=slots, per_batch=per_batch, pool=pool)

    def start(self) -> None:
        """Start the processes, with something to do for each."""
        others = set(multiprocessing.active_children())
        try:
            with decoders():
                for slot in range(len(self.slots) - 1):
                    self.announce(slot)
        finally:
            self.processes.extend(set(multiprocessing.active_children()) - others)

    def announce(self, slot: int) -> None:
        """Have the next batch, if there is one, put into this slot."""
        index = next(self.coming, None)
        if index is None:
            return
        place, pieces = 0, []
        for numbers in self.numbers[index.cpu()].tensor_split(self.per_batch):
            pieces.append(self.pool.submit(_decode, slot, place, numbers.tolist()))
            place += len(numbers)
        self.under_way.append(Batch(index, slot, pieces))

    def take(self, index: Tensor) -> Images:
        """The next batch, which must be the one with these numbers."""
        batch = self.under_way.popleft()
        assert len(index) == len(batch.asked), "batches are taken in the order in which they were announced"
        assert index.device.type != "cpu" or torch.equal(index, batch.asked), "likewise; on a GPU this would wait"
        self.announce((batch.slot - 1) % len(self.slots))  # that of the batch before, which is no longer in use
        for piece in batch.pieces:
            trouble = piece.result()
            if trouble is not None:
                raise Failure(f"{trouble}; then the same command goes on")
        pixels = self.slots[batch.slot, : len(index)]
        return self.given(pixels.pin_memory() if self.labels.device.type == "cuda" else pixels, index)

    def end(self) -> None:
        """End the processes, in the midst of what they are at. May be called again."""
        for process in self.processes:
            process.kill()
        self.pool.shutdown()


_encoded: Encoded  # of a process that decodes
_slots: np.ndarray


def _begin(encoded: Encoded, slots: Tensor) -> None:
    """What a process does first. It ends when the one that has started it does, in whichever way."""
    global _encoded, _slots
    _encoded, _slots = encoded, slots.numpy()
    torch.set_num_threads(1)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process of its own"
    parent.join()
    os._exit(1)


def _decode(slot: int, place: int, numbers: list[int]) -> str | None:
    """Put the images of these numbers into the slot, from the place on, or say what is wrong with them."""
    try:
        for offset, number in enumerate(numbers):
            _slots[slot, place + offset] = _encoded.pixels(number, _slots.shape[2:])
    except UsageError as error:
        return str(error)
    return None


@contextmanager
def decoders() -> Iterator[None]:
    """What processes that are started within the block inherit.

    They never hear Ctrl-C or SIGTERM, which often go to a whole group of processes: what they mean is for this one to
    decide. And they keep what memory they had, which the C library may else give back after every image.
    """
    before, kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}), dict(os.environ)
    os.environ.update(KEEP_MEMORY)
    try:
        yield
    finally:
        for name in KEEP_MEMORY.keys() - kept.keys():
            del os.environ[name]
        os.environ.update(kept)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _told(codes: set[int | None], workers: int) -> str:
    less = f"--workers {workers // 2}" + (", which decodes in this process," if workers == 1 else "")
    if -signal.SIGBUS in codes:
        return f"a process that decodes images found no shared memory; enlarge /dev/shm (docker: --shm-size), or {less}"
    return (
        f"a process that decodes images died, perhaps for want of memory; the same command goes on from the last "
        f"checkpoint, {less} takes less memory"
    )
