"""Many runs on a Ray cluster: one task each, which Ray retries where its node is lost."""

import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from maskbench.errors import Failure, UsageError
from maskbench.executors.base import Executor
from maskbench.executors.worker import Resources, Result, WorkerOptions, execute_in_worker
from maskbench.runs.artifacts import ensure_writable
from maskbench.runs.plan import Plan
from maskbench.runtime.hardware import with_device
from maskbench.runtime.interrupt import Interrupted

MAX_RETRIES = 3  # of a run whose process or node died
CONNECT_TIMEOUT_S = 5.0  # ray.init alone tries for 14 minutes where nobody listens
PASSED_VARIABLES = ("MASKBENCH_CACHE", "MASKBENCH_PLUGINS")  # which workers on other nodes get, too
WORKER_DIED = "its process or its node died {} times; the same command tries it again from its checkpoint"


class RayExecutor(Executor):
    """A task on a Ray cluster for each run.

    Args:
        address: Of the cluster; None: the one that RAY_ADDRESS names, else a new one on this machine.
        jobs: Runs at a time; None: as many as the cluster has resources for.
        resources: For each run.
        options: For all workers.
        output: The results folder, which all nodes share.

    Raises:
        UsageError: Ray is not installed, the cluster does not answer, or no node has the resources.
    """

    def __init__(
        self, address: str | None, jobs: int | None, resources: Resources, options: WorkerOptions, output: Path
    ) -> None:
        self.ray = _import_ray()
        self.jobs, self.resources = jobs, resources
        self.running: dict[Any, str] = {}
        ensure_writable(output)
        handle, self.shared_file = tempfile.mkstemp(dir=output.absolute(), prefix=".shared-")
        os.close(handle)
        self.options = replace(
            options, threads=resources.cpus, working_directory=str(Path.cwd()), shared_file=self.shared_file
        )
        try:
            _connect(self.ray, address or os.environ.get("RAY_ADDRESS"))
            self._ensure_a_node_fits()
        except BaseException:
            self.close()
            raise
        self.task = self.ray.remote(execute_in_worker).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            memory=resources.memory_bytes,
            max_retries=MAX_RETRIES,
            name="maskbench",
        )

    def _ensure_a_node_fits(self) -> None:
        """UsageError where no node has the resources for a run: Ray would wait for one for ever."""
        needs = {"CPU": self.resources.cpus, "GPU": self.resources.gpus, "memory": self.resources.memory_bytes or 0}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes):
            raise UsageError(
                f"no node of the Ray cluster has {self.resources} for a run; lower --cpus-per-run, --gpus-per-run or "
                f"--memory-per-run, or add such a node"
            )

    def free_slots(self) -> int:
        return 1_000_000 if self.jobs is None else self.jobs - len(self.running)

    def submit(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            config = with_device(plan.config, "cuda") if self.resources.gpus else plan.config
            self.running[self.task.remote(config, self.options)] = plan.run_id

    def collect(self, timeout_s: float) -> list[tuple[str, Result]]:
        done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=timeout_s) if self.running else ([], [])
        return [(self.running.pop(reference), self._get_result(reference)) for reference in done]

    def _get_result(self, reference: Any) -> Result:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError:
            raise  # a bug of maskbench
        except self.ray.exceptions.OutOfMemoryError:
            return Result(failure="its node ran out of memory; say what a run takes with --memory-per-run")
        except self.ray.exceptions.RayError:
            return Result(failure=WORKER_DIED.format(1 + MAX_RETRIES))

    def stop(self) -> None:
        try:
            for reference in self.running:
                self.ray.cancel(
                    reference
                )  # Ctrl-C to a worker, where the run saves; a task that has not begun is dropped
            self.ray.wait(list(self.running), num_returns=max(1, len(self.running)))
        except (KeyboardInterrupt, Interrupted):
            raise Failure("stopped at once; the same command goes on from the last checkpoints") from None

    def close(self) -> None:
        Path(self.shared_file).unlink(missing_ok=True)
        self.ray.shutdown()


def _import_ray() -> Any:
    """Ray, which sends no usage statistics unless the user has turned them on. UsageError where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError:
        raise UsageError("--on ray needs a package: pip install 'maskbench[ray]'") from None


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one. UsageError where none answers there."""
    if address is not None:
        _ensure_answers(address)
    variables = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    try:
        ray.init(
            address or "local", runtime_env={"env_vars": variables}, include_dashboard=None if address else False,
            log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "InvalidAuthToken" in f"{error} {error.__cause__}":
            reason = "it wants its token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file that holds it"
        else:
            reason = str(error).splitlines()[0]
        raise UsageError(f"cannot join the Ray cluster at {address or 'this machine'}: {reason}") from None
    except Exception as error:  # a bare one, from Ray, where its node takes more than 30 s to start
        raise Failure(f"Ray did not start: {str(error).splitlines()[0]} The same command tries it again") from None


def _ensure_answers(address: str) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto, local, or an address that a plugin of Ray knows
    try:
        with socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S):
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"no Ray cluster answers at {address} ({reason}); start one with `ray start --head` and give "
            f"--ray-address HOST:6379, or leave it out for one on this machine"
        ) from None
