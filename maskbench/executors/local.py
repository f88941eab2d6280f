"""Many runs on one machine: several processes that share its cores and GPUs. A crash of one leaves the others alone."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TypeVar

import torch

from maskbench.config.settings import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.executors.base import Executor
from maskbench.executors.worker import Result, WorkerOptions, execute_in_worker
from maskbench.runs.plan import Plan
from maskbench.runtime.cpu import core_count
from maskbench.runtime.hardware import with_device
from maskbench.runtime.interrupt import Interrupted
from maskbench.runtime.plugin_exits import exits_as_errors
from maskbench.runtime.working_directory import WorkingDirectory
from maskbench.strategy import REGISTRY

T = TypeVar("T")
WORKER_DIED = "its process died; the same command tries it again from its checkpoint"


class LocalExecutor(Executor):
    """`jobs` worker processes that share cores and GPUs evenly. One that dies is replaced.

    Args:
        jobs: Number of workers.
        options: For all of them.
        workers: Those of them that run already; the others are started.
    """

    shares_terminal = True

    def __init__(self, jobs: int, options: WorkerOptions, workers: Sequence[ProcessPoolExecutor] = ()) -> None:
        self.jobs, self.options = jobs, options
        self.workers = [*workers, *(_start_worker(jobs, options.plugins) for _ in range(jobs - len(workers)))]
        self.free = list(range(jobs))
        self.running: dict[Future[Result], tuple[int, str]] = {}

    def free_slots(self) -> int:
        return len(self.free)

    def submit(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            number = self.free.pop()
            self.running[self._submit_to(number, _assign_gpu(plan.config, number))] = (number, plan.run_id)

    def _submit_to(self, number: int, config: RunConfig) -> Future[Result]:
        """Submit a run to worker `number`, or to a new one in its place where it died while it waited."""
        try:
            return self.workers[number].submit(_execute_while_parent_lives, config, self.options)
        except BrokenProcessPool:
            self._replace_worker(number)
            return self.workers[number].submit(_execute_while_parent_lives, config, self.options)

    def _replace_worker(self, number: int) -> None:
        self.workers[number] = _start_worker(self.jobs, self.options.plugins)

    def collect(self, timeout_s: float) -> list[tuple[str, Result]]:
        done, _ = wait(self.running, timeout_s, return_when=FIRST_COMPLETED)
        return [self._take_result(future) for future in done]

    def _take_result(self, future: Future[Result]) -> tuple[str, Result]:
        number, run_id = self.running.pop(future)
        self.free.append(number)
        try:
            return run_id, future.result()
        except BrokenProcessPool:
            self.workers[number].shutdown()  # its process has an end that the run's lease can see
            self._replace_worker(number)
            return run_id, Result(failure=WORKER_DIED, died=True)

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
        for worker in self.workers:
            worker.shutdown(wait=False, cancel_futures=True)


class IsolatedWorkers:
    """Calls functions in a process of its own, so that a strategy that crashes cannot take this process with it.

    Args:
        plugins: To load there.
        jobs: Workers that will run later; each, and so the one that is called, has its share of the cores.
    """

    def __init__(self, plugins: Sequence[str], jobs: int = 1) -> None:
        self.plugins, self.jobs = plugins, jobs
        self._worker: ProcessPoolExecutor | None = None
        self._idle_workers: list[ProcessPoolExecutor] = []

    def __call__(self, function: Callable[[RunConfig], T], config: RunConfig) -> T:
        """Call `function(config)` there. What it raises is raised here; Failure where its process dies."""
        self._worker = self._worker or _start_worker(self.jobs, self.plugins)
        try:
            return self._worker.submit(_call, function, config).result()
        except BrokenProcessPool:
            self._worker = None
            raise Failure(f"{config.strategy.name}: its process died when a step of it was measured") from None
        except (KeyboardInterrupt, Interrupted):
            for child in multiprocessing.active_children():
                child.kill()  # Python would wait for its answer before it ends
            raise

    def start_all(self) -> None:
        """Start all `jobs` workers now, so that they are ready for the runs; `release` hands them over."""
        if self._worker is None:
            self._worker, *self._idle_workers = (_start_worker(self.jobs, self.plugins) for _ in range(self.jobs))
            for worker in (self._worker, *self._idle_workers):
                worker.submit(int)

    def release(self) -> list[ProcessPoolExecutor]:
        """Give the workers that run to the caller, who has to shut them down."""
        workers = [*([] if self._worker is None else [self._worker]), *self._idle_workers]
        self._worker, self._idle_workers = None, []
        return workers

    def close(self) -> None:
        """End the workers, if there are any."""
        for worker in self.release():
            worker.shutdown()


def _start_worker(jobs: int, plugins: Sequence[str]) -> ProcessPoolExecutor:
    """One process, spawned so that it inherits nothing. With several jobs it gets a share of the cores, else all."""
    threads = torch.get_num_threads() if jobs == 1 else max(1, core_count() // jobs)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _initialize_worker, (threads, tuple(plugins)))


def _initialize_worker(threads: int, plugins: Sequence[str]) -> None:
    """Set up signals, threads and plugins.

    Ctrl-C in a terminal reaches every process. Only the main process acts on it, and sends SIGTERM to its workers. When
    the main process is killed, each worker sends SIGTERM to itself: concurrent.futures would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_terminate_after_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(UsageError):  # a plugin that the main process could load; the run that needs it says why
        for plugin in plugins:
            REGISTRY.load(plugin)


def _call(function: Callable[[RunConfig], T], config: RunConfig) -> T:
    """Call `function(config)`; concurrent.futures would raise a plugin's SystemExit in the main process."""
    directory = WorkingDirectory()
    try:
        with exits_as_errors():
            return function(config)
    finally:
        directory.restore()  # the process goes on to execute runs, which report it


def _terminate_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by it"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _execute_while_parent_lives(config: RunConfig, options: WorkerOptions) -> Result:
    result = execute_in_worker(config, options)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)  # the run is saved, and nobody takes the result
    return result


def _assign_gpu(config: RunConfig, number: int) -> RunConfig:
    """The run for worker `number`, with a GPU of its own where there are several."""
    if config.system.device != "cuda" or torch.cuda.device_count() < 2:
        return config
    return with_device(config, f"cuda:{number % torch.cuda.device_count()}")
