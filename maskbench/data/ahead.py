"""Batches that are read and decoded ahead of their use, by processes that do nothing else.

They write into memory that is shared and used again and again, a slot for each batch under way. Were every batch handed
over in memory of its own, as a DataLoader does by itself, getting that memory from the system and joining the parts
would take a fifth as long as decoding.
"""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskbench.data.encoded import Encoded
from maskbench.data.splits import Images, Split
from maskbench.data.stream import Streamed
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
    prepared = Prepared.of(split, first, workers)
    pieces = prepared.start(chain([first], coming), workers)
    try:
        yield prepared
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise Failure(_told(str(error), workers)) from error
    finally:
        pieces._shutdown_workers()  # a reference in a traceback would keep them alive


@dataclass(frozen=True)
class Piece:
    """A part of a batch: which slot it goes to, from which place on, and the numbers of its images."""

    slot: int
    place: int
    numbers: list[int]


@dataclass(frozen=True)
class Prepared(Streamed):
    """A streamed split whose next batches are on their way.

    slots: (slots, B, H, W, C) uint8, shared. per_batch: pieces in a batch.
    """

    slots: Tensor = field(default_factory=lambda: torch.empty(0))
    per_batch: int = 1
    _announced: deque[tuple[int, Tensor]] = field(default_factory=deque)
    _pieces: list[Iterator[str | None]] = field(default_factory=list)

    @classmethod
    def of(cls, split: Streamed, first: Tensor, workers: int) -> "Prepared":
        """With room for the batches under way, for the one in use, and for one that is both, in part."""
        per_batch = max(1, ceil(len(first) * int(split.shape.prod()) / PIECE_BYTES))
        batches = ceil(max(AHEAD * workers / per_batch, 1)) + 2
        slots = torch.empty((batches, len(first), *split.canvas), dtype=torch.uint8).share_memory_()
        return cls(**vars(split), slots=slots, per_batch=per_batch)

    def start(self, coming: Iterable[Tensor], workers: int) -> Any:
        """Start the processes; the iterator over what they say of each piece, in order."""
        loader = DataLoader(
            Decoder(self.encoded, self.slots),
            sampler=self.announced(coming),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=max(AHEAD, self.per_batch // workers),
            multiprocessing_context="spawn",
            generator=torch.Generator(),  # it would draw from the global one
        )
        with decoders():
            pieces = iter(loader)
        self._pieces.append(pieces)
        return pieces

    def announced(self, coming: Iterable[Tensor]) -> Iterator[Piece]:
        """The pieces of each batch in turn, as far ahead as there are slots."""
        for number, index in zip(count(), coming):
            slot, place = number % len(self.slots), 0
            self._announced.append((slot, index))
            for numbers in self.numbers[index.cpu()].tensor_split(self.per_batch):
                yield Piece(slot, place, numbers.tolist())
                place += len(numbers)

    def take(self, index: Tensor) -> Images:
        """The next batch, which must be the one with these numbers."""
        for _ in range(self.per_batch):
            trouble = next(self._pieces[0])
            if trouble is not None:
                raise Failure(f"{trouble}; then the same command goes on")
        slot, announced = self._announced.popleft()
        assert len(index) == len(announced), "batches are taken in the order in which they were announced"
        assert index.device.type != "cpu" or torch.equal(index, announced), "likewise; on a GPU this would wait"
        pixels = self.slots[slot, : len(index)]
        return self.given(pixels.pin_memory() if self.labels.device.type == "cuda" else pixels, index)


@dataclass(frozen=True)
class Decoder(Dataset[str | None]):
    """What a process does: put the images of a piece where they belong, or say what is wrong with them."""

    encoded: Encoded
    slots: Tensor

    def __getitem__(self, piece: Piece) -> str | None:
        slot = self.slots[piece.slot].numpy()
        try:
            for place, number in enumerate(piece.numbers, piece.place):
                slot[place] = self.encoded.pixels(number, slot.shape[1:])
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


def _told(reason: str, workers: int) -> str:
    less = f"--workers {workers // 2}" + (", which decodes in this process," if workers == 1 else "")
    if "Bus error" in reason:
        return f"a process that decodes images found no shared memory; enlarge /dev/shm (docker: --shm-size), or {less}"
    return (
        f"a process that decodes images died, perhaps for want of memory; the same command goes on from the last "
        f"checkpoint, {less} takes less memory"
    )
