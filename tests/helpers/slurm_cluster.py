"""A real Slurm cluster of one node on this machine: Debian's slurm-wlm, its daemons in a folder of their own.

`python -m tests.helpers.slurm_cluster COMMAND ...` runs a command in one and stops it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
SETTINGS = """
ClusterName=maskbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def install_slurm() -> str | None:
    """Install Slurm unless it is there. Returns why there can be no cluster here; None where there can be one."""
    if _is_installed():
        return None
    if os.geteuid() or shutil.which("apt-get") is None:
        return f"Slurm is not installed: as root, apt-get install {' '.join(PACKAGES)}"
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
    subprocess.run(["apt-get", "update"], **quiet, check=False, timeout=300)  # type: ignore[call-overload]
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    done = subprocess.run(command, **quiet, check=False, timeout=600)  # type: ignore[call-overload]
    return None if _is_installed() else f"apt-get install {' '.join(PACKAGES)} failed: {done.stderr.decode()[-200:]}"


def _is_installed() -> bool:
    os.environ["PATH"] += ":/usr/sbin" if "/usr/sbin" not in os.environ["PATH"] else ""
    return all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun"))


@contextmanager
def slurm_cluster(cpus: int = 2) -> Iterator[dict[str, str]]:
    """The variables by which Slurm's commands find it. Every daemon, job and file of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        variables = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        _configure(folder, cpus)
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
             f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D"],
        ):  # fmt: skip
            stack.callback(_end, _start_daemon(command, folder, variables))
        stack.callback(_cancel_all, variables)
        _wait_for_node(folder, variables)
        yield variables


def _configure(folder: Path, cpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    ports = {"control_port": _free_port(), "node_port": _free_port()}
    host, user = socket.gethostname().partition(".")[0], os.environ.get("USER", "root") if os.geteuid() else "root"
    (folder / "slurm.conf").write_text(SETTINGS.format(host=host, user=user, folder=folder, cpus=cpus, **ports))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_daemon(command: list[str], folder: Path, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    with (folder / f"{command[0]}.out").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    if command[0] == "munged":
        _wait_until(lambda: (folder / "munge.socket").exists(), "munged made no socket")
    return process


def _wait_for_node(folder: Path, variables: dict[str, str]) -> None:
    def idle() -> bool:
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=variables, capture_output=True, text=True, check=False)
        return "idle" in shown.stdout

    try:
        _wait_until(idle, "no node became idle")
    except TimeoutError as error:
        logs = "\n".join(path.read_text()[-1500:] for path in [*folder.glob("slurm*.log"), *folder.glob("*.out")])
        raise RuntimeError(f"{error}:\n{logs}") from None


def _wait_until(condition: Callable[[], object], otherwise: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(0.2)


def _cancel_all(variables: dict[str, str]) -> None:
    """SIGKILL for the jobs that a test has left, for a daemon leaves them running when it ends."""
    for options in (["--signal=KILL", "--full"], []):
        subprocess.run(["scancel", *options, "--state=RUNNING", "--name=maskbench"], env=variables, check=False)
    subprocess.run(["scancel", "--name=maskbench"], env=variables, check=False)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    reason = install_slurm()
    if reason is not None:
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left
    with slurm_cluster() as around:
        sys.exit(subprocess.run(sys.argv[1:], env=around, check=False).returncode)
