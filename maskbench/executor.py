"""Many runs on one machine: several processes, each with a share of the cores, no crash of one touching the others."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import torch

from maskbench.config import RunConfig
from maskbench.errors import Failure
from maskbench.interrupt import Interrupted
from maskbench.pipeline import attempted, checked_all, forget
from maskbench.plan import Plan
from maskbench.record import RunRecord
from maskbench.reporter import Reporter

T = TypeVar("T")
LATER_S = 1.0  # between attempts at runs that processes of somebody else are at


@dataclass(frozen=True)
class Result:
    """What a worker made of a run: its record, or who else is at it, or that it was saved because it was asked to."""

    record: RunRecord | None = None
    busy: str | None = None
    interrupted: str | None = None


def run_in_parallel(
    configs: Sequence[RunConfig],
    jobs: int,
    *,
    plugins: Sequence[str] = (),
    force: bool = False,
    reporter: Reporter | None = None,
    checkpoint_every: float | None = None,
    track: Sequence[str] = (),
) -> list[RunRecord]:
    """Every run, each once, in `jobs` processes that share cores and GPUs evenly; the records, in order.

    All are checked before the first is started. A run that diverges or fails does not stop the others, and neither does
    a process that dies, which another one replaces; its run has no record and is told. plugins: to load in each. track:
    see `maskbench.tracking`.
    Interrupted once all have saved, when asked to stop; a second time stops at once.
    """
    reporter = reporter or Reporter()
    planned = {each.run_id: each for each in checked_all(configs)}
    for each in planned.values() if force else ():
        forget(each)
    waiting, records = deque(planned), dict[str, RunRecord]()
    pools = [_pool(jobs, plugins) for number in range(jobs)]
    free, running = list(range(jobs)), dict[Future[Result], tuple[int, str]]()
    try:
        while waiting or running:
            while waiting and free:
                number, run_id = free.pop(), waiting.popleft()
                config = _on_device(planned[run_id], number)
                running[pools[number].submit(_work, config, checkpoint_every, track)] = (number, run_id)
            done, _ = wait(running, timeout=LATER_S, return_when=FIRST_COMPLETED)
            for future in done:
                number, run_id = running.pop(future)
                free.append(number)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    reporter.note(f"{run_id}: its process died; the same command tries it again from its checkpoint")
                    pools[number] = _pool(jobs, plugins)
                    continue
                if result.record is not None:
                    records[run_id] = result.record
                elif result.busy is not None:
                    waiting.append(run_id)
                else:
                    raise Interrupted(f"{len(records)} of {len(planned)} runs are done", signal.SIGTERM)
    except (KeyboardInterrupt, Interrupted) as asked:
        _stop(running)
        text = f"{len(records)} of {len(planned)} runs are done, those under way are saved"
        raise Interrupted(text, getattr(asked, "signal", signal.SIGINT)) from None
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
    return [records[run_id] for run_id in planned if run_id in records]


class Elsewhere:
    """Calls functions with a configuration in a process of its own, with the share of the cores that one of `jobs` has,
    so that a strategy that crashes cannot take this process with it. What a function raises is raised here; Failure
    where its process dies."""

    def __init__(self, plugins: Sequence[str], jobs: int = 1) -> None:
        self.plugins, self.jobs = plugins, jobs
        self._process: ProcessPoolExecutor | None = None

    def __call__(self, function: Callable[[RunConfig], T], config: RunConfig) -> T:
        self._process = self._process or _pool(self.jobs, self.plugins)
        try:
            return self._process.submit(function, config).result()
        except BrokenProcessPool:
            self._process = None
            raise Failure(f"{config.strategy.name}: its process died when it was tried") from None

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.shutdown()
            self._process = None


def _pool(jobs: int, plugins: Sequence[str]) -> ProcessPoolExecutor:
    """One process, spawned, so that it holds nothing of this one's; `jobs` share the cores, one has this process's."""
    threads = torch.get_num_threads() if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _begin, (threads, tuple(plugins)))


def _begin(threads: int, plugins: Sequence[str]) -> None:
    """Ctrl-C of a terminal reaches every process; only the first one acts on it, and asks the others by SIGTERM."""
    from maskbench.strategy import REGISTRY

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    for plugin in plugins:
        REGISTRY.load(plugin)


def _on_device(planned: Plan, number: int) -> RunConfig:
    config = planned.config
    if config.system.device != "cuda" or torch.cuda.device_count() < 2:
        return config
    device = f"cuda:{number % torch.cuda.device_count()}"
    return config.model_copy(update={"system": config.system.model_copy(update={"device": device})})


def _work(config: RunConfig, checkpoint_every: float | None, track: Sequence[str]) -> Result:
    """In a worker: one run."""
    from maskbench.attempt import Failed
    from maskbench.claim import Busy
    from maskbench.plan import plan
    from maskbench.reporter import Terminal
    from maskbench.tracking import Tracked, trackers

    reporter = Tracked(Terminal(bar=False), trackers(track))
    try:
        return Result(record=attempted(plan(config), reporter, checkpoint_every, None))
    except Failed as failure:
        reporter.note(str(failure))
        return Result(record=failure.record)
    except Busy as busy:
        return Result(busy=str(busy))
    except Interrupted as interruption:
        return Result(interrupted=str(interruption))


def _stop(running: dict[Future[Result], tuple[int, str]]) -> None:
    """Ask every worker to save, and wait until all have; at once where this is interrupted too."""
    children = multiprocessing.active_children()
    try:
        for child in children:
            child.terminate()
        wait(running)
    except (KeyboardInterrupt, Interrupted):
        for child in children:
            child.kill()
        raise Failure("stopped at once; the same command goes on from the last checkpoints") from None
