"""Runs on a real Ray cluster: a node is killed, runs are cancelled, a node does not share the files."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers.cluster_suites import ray_token_environment, run_reference, wait_until, write_suite
from tests.helpers.command_line import run_command, start_command
from tests.helpers.run_results import comparable_results, count_interruptions, left_over_files

pytestmark = pytest.mark.integration
pytest.importorskip("ray")

SLOW = ["--epochs", "80"]  # 160 steps with a checkpoint after each, so that a kill falls into them


class Cluster:
    """A head without any CPU for runs, and worker nodes that appear and are killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes = folder, ExitStack()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.environment = ray_token_environment(folder)
        self.start_node("--head", "--port", str(port), "--temp-dir", str(folder), "--include-dashboard=false", cpus=0)

    def start_node(self, *options: str, cpus: int = 1, host: str | None = None, mount: Path | None = None) -> int:
        """The process group of another node. host: its name, so that it counts as another machine. mount: a
        folder that is empty there."""
        joins = () if "--head" in options else ("--address", self.address)
        command = [str(Path(sys.executable).with_name("ray")), "start", *options, *joins, "--block"]
        command += [f"--num-cpus={cpus}", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
        before = [f"hostname {host}"] if host else []
        before += [f"mount -t tmpfs tmpfs {mount}"] if mount else []
        if before:
            command = ["unshare", "--uts", "--mount", "sh", "-c", " && ".join([*before, 'exec "$@"']), "sh", *command]
        environment = {**self.environment, "RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "1000"}
        path = self.folder / f"node-{time.monotonic_ns()}.out"
        log = path.open("wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        self.nodes.callback(log.close)
        self.nodes.callback(process.wait)
        self.nodes.callback(kill_session, process.pid)
        wait_until(lambda: "Ray runtime started" in path.read_text(), 90, f"no node: {path.read_text()}")
        return process.pid  # two that start at once on one machine take each other's ports

    def run_command(self, folder: Path, arguments: list[str]) -> tuple[int, str]:
        return run_command(folder, *arguments, timeout=120, env=self.environment)


def kill_session(leader: int) -> None:
    """SIGKILL for all that a node consists of, as when its machine dies."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == leader:
                os.kill(int(path.name), signal.SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # paths of sockets may not be long
    made = None
    try:
        made = Cluster(folder)
        yield made
    finally:
        if made is not None:
            made.nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


needs_root = pytest.mark.skipif(bool(os.geteuid()), reason="other host names and mounts need root")


@needs_root
def test_a_killed_nodes_runs_go_on_elsewhere_to_the_same_numbers(tmp_path: Path) -> None:
    """Twelve runs on two nodes, which are two machines as far as anybody can tell, so that the run of the killed one
    is free only once its lease has lapsed."""
    arguments = write_suite(tmp_path, ["random", "gmml", "attmask-high"], "0-2", *SLOW)
    expected = run_reference(tmp_path / "alone", arguments)
    with cluster() as made:
        made.start_node(host="machine-a")
        victim = made.start_node(host="machine-b")
        with start_command(
            tmp_path, *arguments, "--on", "ray", "--ray-address", made.address, env=made.environment
        ) as process:
            try:
                wait_until(
                    lambda: saved_runs_on(tmp_path, "machine-b") and len(count_interruptions(tmp_path)) > 1,
                    240,
                    "nothing ran",
                )
                (lost,) = saved_runs_on(tmp_path, "machine-b")
                kill_session(victim)
                before = {path: path.read_bytes() for path in tmp_path.glob("results/quick/runs/*/record.json")}
                _, said = process.communicate(timeout=420)
            finally:
                process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said and f"{lost} goes on from step" in said, said
    assert {path: path.read_bytes() for path in before} == before, "a run that was done was done again"
    assert said.count(" knn/top1/mean ") == len(expected) == 12, "a run that ends says so, once"
    assert count_interruptions(tmp_path) == {run_id: int(run_id == lost) for run_id in expected}
    assert comparable_results(tmp_path) == expected
    assert not left_over_files(tmp_path)


def saved_runs_on(folder: Path, host: str) -> list[str]:
    """The runs that a process on `host` holds and has saved."""
    return [
        path.parent.name
        for path in folder.glob("results/quick/runs/*/running.lock")
        if f"host={host}" in path.read_text() and (path.parent / "checkpoint-previous.pt").exists()
    ]


def test_stopped_the_runs_are_saved_and_the_same_command_goes_on(tmp_path: Path) -> None:
    arguments = [*write_suite(tmp_path, ["random"], "0", "--epochs", "400"), "--on", "ray"]
    with start_command(tmp_path, *arguments, env=ray_token_environment(tmp_path)) as process:
        try:
            wait_until(lambda: list(tmp_path.glob("**/runs/*/checkpoint-previous.pt")), 120, "nothing ran")
            status = subprocess.run(
                [sys.executable, "-m", "maskbench", "status", "results/quick", "--json"],
                cwd=tmp_path, capture_output=True, text=True, check=True,
            )  # fmt: skip
            os.kill(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "running" in {each["state"] for each in json.loads(status.stdout)}
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "those under way are saved; to go on: maskbench run --suite" in said.splitlines()[-1]
    assert not list(tmp_path.glob("**/running.lock")), "the worker let go of it, and was not killed"
    code, said = run_command(tmp_path, *arguments, timeout=240, env=ray_token_environment(tmp_path))
    assert code == 0 and "goes on from step" in said, said


@needs_root
def test_a_node_that_does_not_see_the_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with cluster() as made:
        made.start_node(host="stranger", mount=tmp_path / "results")
        arguments = [*write_suite(tmp_path, ["random"], "0"), "--on", "ray", "--ray-address", made.address]
        wait_until(lambda: "no node" not in made.run_command(tmp_path, arguments)[1], 90, "no node came")
        code, said = made.run_command(tmp_path, arguments)
        made.environment["RAY_AUTH_TOKEN_PATH"] = ray_token_environment(tmp_path)["RAY_AUTH_TOKEN_PATH"]
        refused = made.run_command(tmp_path, arguments)
    assert refused[0] == 2 and "it wants its token" in refused[1] and "Traceback" not in refused[1], refused
    assert code == 2 and "stranger does not see" in said and "choose another --output" in said, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("results/**/.shared-*"))


def test_nobody_at_the_address_is_one_line_and_takes_nothing(tmp_path: Path) -> None:
    arguments = write_suite(tmp_path, ["random"], "0")
    assert run_command(tmp_path, *arguments, timeout=120)[0] == 0
    before = comparable_results(tmp_path)
    nowhere = ["--on", "ray", "--ray-address", "127.0.0.1:1", "--force"]
    code, said = run_command(tmp_path, *arguments, *nowhere, timeout=120)
    assert comparable_results(tmp_path) == before
    assert code == 2 and "no Ray cluster answers at 127.0.0.1:1" in said and "Traceback" not in said, said
