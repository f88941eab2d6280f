"""Many runs on one machine: several processes, each with a share of the cores, no crash of one touching the others."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from maskbench.config.schema import RunConfig
from maskbench.errors import Failure
from maskbench.executors.base import Executor
from maskbench.executors.worker import Result, Terms, work
from maskbench.runs.plan import Plan
from maskbench.runtime.cpu import cores
from maskbench.runtime.hardware import on_device
from maskbench.runtime.interrupt import Interrupted
from maskbench.strategy import REGISTRY

T = TypeVar("T")
DIED = "its process died; the same command tries it again from its checkpoint"


class Local(Executor):
    """`jobs` processes that share cores and GPUs evenly; one that dies is replaced by another. pools: those of them
    that have been started already."""

    loud = True

    def __init__(self, jobs: int, terms: Terms, pools: Sequence[ProcessPoolExecutor] = ()) -> None:
        self.jobs, self.terms = jobs, terms
        self.pools = [*pools, *(_pool(jobs, terms.plugins) for _ in range(jobs - len(pools)))]
        self.free = list(range(jobs))
        self.running: dict[Future[Result], tuple[int, str]] = {}

    def room(self) -> int:
        return len(self.free)

    def start(self, planned: Sequence[Plan]) -> None:
        for each in planned:
            number = self.free.pop()
            self.running[self._submitted(number, _spread(each.config, number))] = (number, each.run_id)

    def _submitted(self, number: int, config: RunConfig) -> Future[Result]:
        """The run, begun by process `number`, or by another in its place where it has died while it waited."""
        try:
            return self.pools[number].submit(_worked, config, self.terms)
        except BrokenProcessPool:
            self.pools[number] = _pool(self.jobs, self.terms.plugins)
            return self.pools[number].submit(_worked, config, self.terms)

    def landed(self, timeout_s: float) -> list[tuple[str, Result]]:
        done, _ = wait(self.running, timeout_s, return_when=FIRST_COMPLETED)
        return [self._landed(future) for future in done]

    def _landed(self, future: Future[Result]) -> tuple[str, Result]:
        number, run_id = self.running.pop(future)
        self.free.append(number)
        try:
            return run_id, future.result()
        except BrokenProcessPool:
            self.pools[number] = _pool(self.jobs, self.terms.plugins)
            return run_id, Result(died=DIED)

    def stop(self) -> None:
        children = multiprocessing.active_children()
        try:
            for child in children:
                child.terminate()
            wait(self.running)
        except (KeyboardInterrupt, Interrupted):
            for child in children:
                child.kill()
            raise Failure("stopped at once; the same command goes on from the last checkpoints") from None

    def close(self) -> None:
        for pool in self.pools:
            pool.shutdown(wait=False, cancel_futures=True)


class Elsewhere:
    """Calls functions with a configuration in a process of its own, with the share of the cores that one of `jobs` has,
    so that a strategy that crashes cannot take this process with it. What a function raises is raised here; Failure
    where its process dies."""

    def __init__(self, plugins: Sequence[str], jobs: int = 1) -> None:
        self.plugins, self.jobs = plugins, jobs
        self._process: ProcessPoolExecutor | None = None
        self._others: list[ProcessPoolExecutor] = []

    def __call__(self, function: Callable[[RunConfig], T], config: RunConfig) -> T:
        self._process = self._process or _pool(self.jobs, self.plugins)
        try:
            return self._process.submit(function, config).result()
        except BrokenProcessPool:
            self._process = None
            raise Failure(f"{config.strategy.name}: its process died when it was tried") from None
        except (KeyboardInterrupt, Interrupted):
            for child in multiprocessing.active_children():
                child.kill()  # Python would wait for its answer before it ends
            raise

    def summon(self) -> None:
        """Start all of `jobs` processes now, so that they are ready when it is their turn."""
        if self._process is None:
            self._process, *self._others = (_pool(self.jobs, self.plugins) for _ in range(self.jobs))
            for pool in (self._process, *self._others):
                pool.submit(int)

    def handed_over(self) -> list[ProcessPoolExecutor]:
        """The processes that there are, which from now on are somebody else's."""
        pools = [*([] if self._process is None else [self._process]), *self._others]
        self._process, self._others = None, []
        return pools

    def close(self) -> None:
        """End the processes, if there are any."""
        for pool in self.handed_over():
            pool.shutdown()


def _pool(jobs: int, plugins: Sequence[str]) -> ProcessPoolExecutor:
    """One process, spawned, so that it holds nothing of this one's; `jobs` share the cores, one has this process's."""
    threads = torch.get_num_threads() if jobs == 1 else max(1, cores() // jobs)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _begin, (threads, tuple(plugins)))


def _begin(threads: int, plugins: Sequence[str]) -> None:
    """Ctrl-C of a terminal reaches every process; only the first one acts on it, and asks the others by SIGTERM. Where
    that one is killed, each asks itself: concurrent.futures would wait for more to do for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_outlive, daemon=True).start()
    torch.set_num_threads(threads)
    for plugin in plugins:
        REGISTRY.load(plugin)


def _outlive() -> None:
    first = multiprocessing.parent_process()
    assert first is not None, "begun by it"
    first.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _worked(config: RunConfig, terms: Terms) -> Result:
    result = work(config, terms)
    first = multiprocessing.parent_process()
    if first is not None and not first.is_alive():
        os._exit(1)  # the run is saved, and nobody takes the result
    return result


def _spread(config: RunConfig, number: int) -> RunConfig:
    """Process `number`'s run, on its GPU where there are several."""
    if config.system.device != "cuda" or torch.cuda.device_count() < 2:
        return config
    return on_device(config, f"cuda:{number % torch.cuda.device_count()}")
