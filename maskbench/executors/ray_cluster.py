"""Many runs on a Ray cluster: a task each, which Ray tries again where its node is lost and cancels where asked."""

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
from maskbench.executors.worker import Result, Share, Terms, work
from maskbench.runs.artifacts import writable
from maskbench.runs.plan import Plan
from maskbench.runtime.hardware import on_device
from maskbench.runtime.interrupt import Interrupted

RETRIES = 3  # of a run whose process or node died, before it is given up
REACH_S = 5.0  # for the head of a cluster to answer; ray.init by itself tried for 14 minutes where nobody listens
PASSED_ON = ("MASKBENCH_CACHE", "MASKBENCH_PLUGINS")  # what workers on other nodes get too
DIED = "its process or its node died {} times; the same command tries it again from its checkpoint"


class RayCluster(Executor):
    """Tasks on the cluster at `address`; None: on the one that RAY_ADDRESS names, else on one of its own here.

    output: the results folder, which all nodes share. jobs: runs at a time; None: as many as there is room for.
    """

    def __init__(self, address: str | None, jobs: int | None, share: Share, terms: Terms, output: Path) -> None:
        self.ray = _package()
        self.jobs, self.share = jobs, share
        self.running: dict[Any, str] = {}
        writable(output)
        handle, self.token = tempfile.mkstemp(dir=output.absolute(), prefix=".shared-")
        os.close(handle)
        self.terms = replace(terms, threads=share.cpus, folder=str(Path.cwd()), token=self.token)
        try:
            _connect(self.ray, address or os.environ.get("RAY_ADDRESS"))
            self._fits()
        except BaseException:
            self.close()
            raise
        self.task = self.ray.remote(work).options(
            num_cpus=share.cpus, num_gpus=share.gpus, memory=share.memory_bytes, max_retries=RETRIES, name="maskbench"
        )

    def _fits(self) -> None:
        """UsageError where no node has what a run needs: Ray itself would wait for one for ever."""
        needs = {"CPU": self.share.cpus, "GPU": self.share.gpus, "memory": self.share.memory_bytes or 0}
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes):
            raise UsageError(
                f"no node of the Ray cluster has {self.share} for a run; lower --cpus-per-run, --gpus-per-run or "
                f"--memory-per-run, or add such a node"
            )

    def room(self) -> int:
        return 1_000_000 if self.jobs is None else self.jobs - len(self.running)

    def start(self, planned: Sequence[Plan]) -> None:
        for each in planned:
            config = on_device(each.config, "cuda") if self.share.gpus else each.config
            self.running[self.task.remote(config, self.terms)] = each.run_id

    def landed(self, timeout_s: float) -> list[tuple[str, Result]]:
        done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=timeout_s) if self.running else ([], [])
        return [(self.running.pop(reference), self._result(reference)) for reference in done]

    def _result(self, reference: Any) -> Result:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError:
            raise  # a fault of ours
        except self.ray.exceptions.OutOfMemoryError:
            return Result(died="its node ran out of memory; declare what a run takes with --memory-per-run")
        except self.ray.exceptions.RayError:
            return Result(died=DIED.format(1 + RETRIES))

    def stop(self) -> None:
        try:
            for reference in self.running:
                self.ray.cancel(reference)  # Ctrl-C to a worker, where the run saves; what has not begun is dropped
            self.ray.wait(list(self.running), num_returns=max(1, len(self.running)))
        except (KeyboardInterrupt, Interrupted):
            raise Failure("stopped at once; the same command goes on from the last checkpoints") from None

    def close(self) -> None:
        Path(self.token).unlink(missing_ok=True)
        self.ray.shutdown()


def _package() -> Any:
    """Ray; UsageError where it is not installed. It reports no usage to anybody unless the user has it do so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError:
        raise UsageError("--on ray needs a package: pip install 'maskbench[ray]'") from None


def _connect(ray: Any, address: str | None) -> None:
    """UsageError where nobody answers there."""
    if address is not None:
        _reach(address)
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
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
    except Exception as error:  # which Ray raises bare where its own node takes more than 30 s to start
        raise Failure(f"Ray did not start: {str(error).splitlines()[0]} The same command tries it again") from None


def _reach(address: str) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto, local, or what a plugin of Ray knows
    try:
        with socket.create_connection((host, int(port)), REACH_S):
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"no Ray cluster answers at {address} ({reason}); start one with `ray start --head` and give "
            f"--ray-address HOST:6379, or leave it out for one on this machine"
        ) from None
