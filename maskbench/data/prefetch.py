"""Batches that other processes read and decode before they are needed.

The processes write into shared memory that is used again and again: a slot for each batch under way. A DataLoader hands
over each batch in new memory; to get that memory from the system and to join the parts would take a fifth of the time
that decoding takes. And whichever process is free takes the next chunk; in a DataLoader each process has its turn, so
that fast ones wait for the slowest.
"""

import multiprocessing
import os
import signal
import threading
import warnings
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
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.splits import Images, Split
from maskbench.data.streaming import StreamedImages
from maskbench.errors import Failure, UsageError

CHUNK_BYTES = 2**24  # of decoded pixels, which a process makes at a time: tens of milliseconds of work
CHUNKS_PER_WORKER = 2  # waiting or under way for each process, at least
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # glibc's; no harm elsewhere


@contextmanager
def prefetch(split: Split, batches: Iterable[Tensor], workers: int | Literal["auto"]) -> Iterator[Split]:
    """Decode the batches of a streamed split in `workers` processes, ahead of their use.

    Within the block, call `take` of the split that is yielded with the tensors of `batches`, one after the other. What
    it returns is valid until the next call. Nothing is prefetched with 0 workers, nor for images in memory: the block
    then gets `split` itself.

    Args:
        split: The images.
        batches: (B,) int64 indices of each batch; no batch is larger than the first.
        workers: Number of processes; "auto" must have been resolved.

    Raises:
        Failure: A process died, or an image can no longer be read. The message names the remedy.
    """
    batches = iter(batches)
    first = next(batches, None)
    if not isinstance(split, StreamedImages) or workers == 0 or first is None:
        yield split
        return
    assert isinstance(workers, int), "resolved"
    prefetched = PrefetchedImages.create(split, first, chain([first], batches), workers)
    try:
        prefetched.start()
        yield prefetched
    except BrokenProcessPool:
        prefetched.stop()
        exit_codes = {process.exitcode for process in prefetched.processes}
        raise Failure(_describe_death(exit_codes, workers)) from None
    finally:
        prefetched.stop()


class DecoderProcess(SpawnProcess):
    """A process that decodes. It ignores SIGTERM, so a pool must end it by SIGKILL when another process has died."""

    terminate = SpawnProcess.kill


class DecoderContext(SpawnContext):
    """Starts decoders as fresh processes, without the memory of this one."""

    Process = DecoderProcess


@dataclass(frozen=True)
class PendingBatch:
    """A batch under way.

    Attributes:
        index: (B,) int64, the images.
        slot: Where the pixels go.
        chunks: For each chunk None once it is decoded, or what is wrong with an image.
    """

    index: Tensor
    slot: int
    chunks: list[Future[str | None]]


@dataclass(frozen=True, kw_only=True)
class PrefetchedImages(StreamedImages):
    """A streamed split whose next batches are being decoded.

    Attributes:
        batches: Indices of the batches that are not submitted yet.
        slots: (slots, B, H, W, C) uint8, shared; one slot holds the batch in use.
        chunks_per_batch: Into how many chunks a batch is cut.
        pool: The processes' queue.
        processes: The processes, once they are started.
        pending: Submitted batches, in order.
    """

    batches: Iterator[Tensor]
    slots: Tensor
    chunks_per_batch: int
    pool: ProcessPoolExecutor
    processes: list[BaseProcess] = field(default_factory=list)
    pending: deque[PendingBatch] = field(default_factory=deque)

    @classmethod
    def create(
        cls, split: StreamedImages, first: Tensor, batches: Iterator[Tensor], workers: int
    ) -> "PrefetchedImages":
        """Reserve slots for the batches under way and for the one in use, each as large as the batch `first`."""
        chunks_per_batch = max(1, ceil(len(first) * int(split.shape.prod()) / CHUNK_BYTES))
        slot_count = ceil(CHUNKS_PER_WORKER * workers / chunks_per_batch) + 1
        slots = torch.empty((slot_count, len(first), *split.canvas), dtype=torch.uint8).share_memory_()
        pool = ProcessPoolExecutor(workers, DecoderContext(), _initialise_decoder, (split.encoded, slots))
        return cls(**vars(split), batches=batches, slots=slots, chunks_per_batch=chunks_per_batch, pool=pool)

    def start(self) -> None:
        """Start the processes, with work for each."""
        others = set(multiprocessing.active_children())
        try:
            with decoder_environment():
                for slot in range(len(self.slots) - 1):
                    self._submit_next_batch(slot)
        finally:
            self.processes.extend(set(multiprocessing.active_children()) - others)

    def take(self, index: Tensor) -> Images:
        """Wait for the next batch, which must be the one at `index`."""
        batch = self.pending.popleft()
        assert len(index) == len(batch.index), "batches are taken in the order in which they were submitted"
        assert index.device.type != "cpu" or torch.equal(index, batch.index), "likewise; on a GPU this would wait"
        self._submit_next_batch((batch.slot - 1) % len(self.slots))  # of the batch before, which is no longer in use
        for chunk in batch.chunks:
            problem = chunk.result()
            if problem is not None:
                raise Failure(f"{problem}; then repeat the command to continue")
        pixels = self.slots[batch.slot, : len(index)]
        return self.to_images(pixels.pin_memory() if self.labels.device.type == "cuda" else pixels, index)

    def _submit_next_batch(self, slot: int) -> None:
        """Have the next batch, if there is one, decoded into this slot."""
        index = next(self.batches, None)
        if index is None:
            return
        position, chunks = 0, []
        for numbers in self.numbers[index.cpu()].tensor_split(self.chunks_per_batch):
            chunks.append(self.pool.submit(_decode_chunk, slot, position, numbers.tolist()))
            position += len(numbers)
        self.pending.append(PendingBatch(index, slot, chunks))

    def stop(self) -> None:
        """Kill the processes, whatever they are doing. May be called again."""
        for process in self.processes:
            process.kill()
        self.pool.shutdown()


_encoded: EncodedImages  # these two are set in a process that decodes
_slots: np.ndarray


def _initialise_decoder(encoded: EncodedImages, slots: Tensor) -> None:
    """Prepare a process, which ends when the process that started it ends, in whichever way."""
    global _encoded, _slots
    _encoded, _slots = encoded, slots.numpy()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # images were named when the data set was prepared
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process of its own"
    parent.join()
    os._exit(1)


def _decode_chunk(slot: int, position: int, numbers: list[int]) -> str | None:
    """Decode the images `numbers` into the slot, from `position` on. Returns what is wrong with an image, if any is."""
    try:
        for offset, number in enumerate(numbers):
            _slots[slot, position + offset] = _encoded.decode(number, _slots.shape[2:])
    except UsageError as error:
        return str(error)
    return None


@contextmanager
def decoder_environment() -> Iterator[None]:
    """Set what processes inherit that are started within the block.

    They ignore Ctrl-C and SIGTERM, which often go to a whole group of processes: the parent decides what these mean.
    And they keep their memory, which the C library may otherwise give back after every image.
    """
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    previous = dict(os.environ)
    os.environ.update(KEEP_MEMORY)
    try:
        yield
    finally:
        for name in KEEP_MEMORY.keys() - previous.keys():
            del os.environ[name]
        os.environ.update(previous)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def _describe_death(exit_codes: set[int | None], workers: int) -> str:
    fewer = f"--workers {workers // 2}" + (", which decodes in this process," if workers == 1 else "")
    if -signal.SIGBUS in exit_codes:
        return (
            f"a process that decodes images found no shared memory; enlarge /dev/shm (docker: --shm-size), or {fewer}"
        )
    return (
        f"a process that decodes images died, perhaps because memory ran out; repeat the command to continue from the "
        f"last checkpoint; {fewer} takes less memory"
    )
