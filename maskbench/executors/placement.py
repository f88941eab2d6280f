"""Where a set of runs is carried out, and what each of them may use there."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

from maskbench.config.schema import RunConfig
from maskbench.errors import UsageError, unknown
from maskbench.executors.base import Executor
from maskbench.executors.local import Local
from maskbench.executors.ray_cluster import RayCluster
from maskbench.executors.slurm import Slurm
from maskbench.executors.worker import Share, Terms
from maskbench.runtime.cpu import cores
from maskbench.runtime.hardware import as_on_gpu, on_device, resolve, with_workers

PLACES = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Place:
    """The flags of `run` by their names. jobs: runs at a time; None: one here, elsewhere as many as there is room for.

    UsageError for a place that there is not, and for what makes no sense there.
    """

    on: str = "local"
    jobs: int | None = None
    cpus_per_run: int | None = field(default=None, metadata={"for": ("ray", "slurm")})
    gpus_per_run: float | None = field(default=None, metadata={"for": ("ray", "slurm")})
    memory_per_run: float | None = field(default=None, metadata={"for": ("ray", "slurm")})  # GiB
    ray_address: str | None = field(default=None, metadata={"for": ("ray",)})
    partition: str | None = field(default=None, metadata={"for": ("slurm",)})
    time: str | None = field(default=None, metadata={"for": ("slurm",)})
    slurm: Sequence[str] | None = field(default=None, metadata={"for": ("slurm",)})  # KEY=VALUE, any option of sbatch

    def __post_init__(self) -> None:
        if self.on not in PLACES:
            raise unknown("--on", self.on, PLACES)
        for each in fields(self):
            where = each.metadata.get("for", PLACES)
            if getattr(self, each.name) is not None and self.on not in where:
                flag = each.name.replace("_", "-")
                raise UsageError(f"--{flag} is for --on {' or '.join(where)}; drop it, or say --on {where[0]}")
        if self.slurm and any("=" not in each for each in self.slurm):
            raise UsageError("--slurm: write KEY=VALUE as sbatch has it, e.g. --slurm account=vision --slurm qos=low")
        if self.on == "slurm" and self.gpus_per_run is not None and self.gpus_per_run % 1:
            raise UsageError(f"--gpus-per-run {self.gpus_per_run:g}: Slurm gives whole GPUs; --on ray shares them")

    @property
    def at_once(self) -> int:
        """Runs that go on at the same time, as far as that is known."""
        return self.jobs or 1

    @property
    def here(self) -> bool:
        """Whether runs are carried out on this machine, so that what a step takes can be tried."""
        return self.on == "local"

    def settled(self, config: RunConfig) -> RunConfig:
        """The configuration with `auto` as it is meant there, where this machine may have no GPU or workers none; its
        device is one that there is here, by which it can be checked."""
        if self.here:
            return with_workers(config, max(1, cores() // self.at_once)) if self.at_once > 1 else config
        share = self.share(config)
        config = with_workers(config, share.cpus)
        if share.gpus:
            return as_on_gpu(config)
        if config.system.device not in ("auto", "cpu"):
            raise UsageError(f"--device {config.system.device} --on {self.on} needs --gpus-per-run, e.g. 1 or 0.25")
        return on_device(config, "cpu")

    def share(self, config: RunConfig) -> Share:
        """What each run is given; where nothing is said, a GPU if one is asked for or used here."""
        gpus, device = self.gpus_per_run, config.system.device
        if gpus is None:
            gpus = float(device.startswith("cuda") or resolve(config).system.device.startswith("cuda"))
        return Share(self.cpus_per_run or 1, gpus, self.memory_per_run)

    def executor(self, terms: Terms, config: RunConfig, pools: Sequence[ProcessPoolExecutor] = ()) -> Executor:
        """What carries out runs like `config` there. pools: this machine's processes that have been started already."""
        output = Path(config.output)
        if self.on == "ray":
            return RayCluster(self.ray_address, self.jobs, self.share(config), terms, output)
        if self.on == "slurm":
            options = dict(each.removeprefix("--").split("=", 1) for each in self.slurm or ())
            return Slurm(self.partition, self.time, options, self.jobs, self.share(config), terms, output)
        return Local(self.at_once, terms, pools)
