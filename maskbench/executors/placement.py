"""Which executor executes a set of runs, and what each run may use there."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

from maskbench.config.settings import RunConfig
from maskbench.errors import UsageError, unknown_name
from maskbench.executors.base import Executor
from maskbench.executors.local import LocalExecutor
from maskbench.executors.ray_cluster import RayExecutor
from maskbench.executors.slurm import SbatchOptions, SlurmExecutor
from maskbench.executors.worker import Resources, WorkerOptions
from maskbench.runtime import hardware
from maskbench.runtime.cpu import core_count
from maskbench.runtime.hardware import resolve_auto_for_gpu, with_device, with_workers

EXECUTORS = ("local", "ray", "slurm")
CLUSTERS = ("ray", "slurm")


@dataclass(frozen=True)
class Placement:
    """The flags of `run` that say where runs are executed; the metadata of a field names the executors that take it.

    Attributes:
        on: The executor.
        jobs: Runs at a time; None: one on this machine, on a cluster as many as it starts.
        cpus_per_run: Cores for each run; None: 1.
        gpus_per_run: GPUs, or a share of one, for each run; None: 1 where the device is a GPU.
        memory_per_run: GiB for each run; None: the cluster's default.
        ray_address: Of the cluster; None: see `RayExecutor`.
        partition: Of Slurm.
        time: Time limit of a job, as sbatch takes it.
        slurm: KEY=VALUE, any option of sbatch.

    Raises:
        UsageError: An unknown executor, or a flag that does not apply to it.
    """

    on: str = "local"
    jobs: int | None = None
    cpus_per_run: int | None = field(default=None, metadata={"for": CLUSTERS})
    gpus_per_run: float | None = field(default=None, metadata={"for": CLUSTERS})
    memory_per_run: float | None = field(default=None, metadata={"for": CLUSTERS})
    ray_address: str | None = field(default=None, metadata={"for": ("ray",)})
    partition: str | None = field(default=None, metadata={"for": ("slurm",)})
    time: str | None = field(default=None, metadata={"for": ("slurm",)})
    slurm: Sequence[str] | None = field(default=None, metadata={"for": ("slurm",)})

    def __post_init__(self) -> None:
        if self.on not in EXECUTORS:
            raise unknown_name("--on", self.on, EXECUTORS)
        for each in fields(self):
            applies_to = each.metadata.get("for", EXECUTORS)
            if getattr(self, each.name) is not None and self.on not in applies_to:
                flag = each.name.replace("_", "-")
                raise UsageError(
                    f"--{flag} is for --on {' or '.join(applies_to)}; drop it, or say --on {applies_to[0]}"
                )
        if self.slurm and any("=" not in each for each in self.slurm):
            raise UsageError("--slurm: write KEY=VALUE as sbatch has it, e.g. --slurm account=vision --slurm qos=low")
        if self.on == "slurm" and self.gpus_per_run is not None and self.gpus_per_run % 1:
            raise UsageError(f"--gpus-per-run {self.gpus_per_run:g}: Slurm gives whole GPUs; --on ray shares them")

    @property
    def concurrent_runs(self) -> int:
        """Runs at a time, 1 where the cluster decides."""
        return self.jobs or 1

    @property
    def is_local(self) -> bool:
        """Whether runs are executed on this machine, so that the time of a step can be measured here."""
        return self.on == "local"

    def resolve_auto(self, config: RunConfig) -> RunConfig:
        """Replace `auto` by what it means where the run is executed: this machine may have a GPU and a worker none.

        The device of the result exists here, so that the configuration can be checked here.
        """
        if self.is_local:
            count = self.concurrent_runs
            return with_workers(config, max(1, core_count() // count)) if count > 1 else config
        resources = self.resources(config)
        config = with_workers(config, resources.cpus)
        if resources.gpus:
            return resolve_auto_for_gpu(config)
        if config.system.device not in ("auto", "cpu"):
            raise UsageError(f"--device {config.system.device} --on {self.on} needs --gpus-per-run, e.g. 1 or 0.25")
        return with_device(config, "cpu")

    def resources(self, config: RunConfig) -> Resources:
        """What each run gets on a cluster; by default a GPU if the configuration names one or would use one here."""
        gpus, device = self.gpus_per_run, config.system.device
        if gpus is None:
            gpus = float(device.startswith("cuda") or hardware.resolve_auto(config).system.device.startswith("cuda"))
        return Resources(self.cpus_per_run or 1, gpus, self.memory_per_run)

    def create_executor(
        self, options: WorkerOptions, config: RunConfig, workers: Sequence[ProcessPoolExecutor] = ()
    ) -> Executor:
        """The executor for runs like `config`. workers: those on this machine that run already."""
        output = Path(config.output)
        if self.on == "ray":
            return RayExecutor(self.ray_address, self.jobs, self.resources(config), options, output)
        if self.on == "slurm":
            extra = dict(each.removeprefix("--").split("=", 1) for each in self.slurm or ())
            sbatch = SbatchOptions(self.partition, self.time, extra)
            return SlurmExecutor(sbatch, self.jobs, self.resources(config), options, output)
        return LocalExecutor(self.concurrent_runs, options, workers)
