"""Options and errors that commands share."""

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer

from maskbench.errors import Failure, UsageError
from maskbench.runtime.atomic_files import BROKEN, trouble
from maskbench.runtime.interrupt import Interrupted
from maskbench.runtime.launcher import launched

T = TypeVar("T")


class Regime(StrEnum):
    paper = "paper"
    matched = "matched"


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="FILE.py|MODULE", help="Strategies, objectives or probes of your own; repeatable."
    ),
]

On = Annotated[
    str | None, typer.Option(metavar="local|ray|slurm", help="Where the runs go; local if not given (docs/scaling.md).")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time: 1 here, as many as fit on a cluster.")]
CpusPerRun = Annotated[int | None, typer.Option(min=1, help="ray, slurm: cores, which are its threads; 1.")]
GpusPerRun = Annotated[float | None, typer.Option(min=0, help="ray, slurm: e.g. 1, or on ray 0.25.")]
MemoryPerRun = Annotated[float | None, typer.Option(min=0.001, metavar="GIB", help="ray, slurm: memory of a run.")]
RayAddress = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="A Ray cluster; RAY_ADDRESS or one here if not given.")
]
Partition = Annotated[str | None, typer.Option(help="slurm: as sbatch takes it.")]
Time = Annotated[str | None, typer.Option(help="slurm: as sbatch takes it; 4:00:00. What is longer is requeued.")]
SlurmOptions = Annotated[
    list[str] | None, typer.Option("--slurm", metavar="KEY=VALUE", help="Any option of sbatch; repeatable.")
]


SETTINGS = {  # which setting a flag of `run` and of `bench` makes, by the name of its parameter
    "regime": "regime",
    "ratio": "ratio",
    "objective": "objective",
    "probes": "probes",
    "output": "output",
    "dataset": "data.dataset",
    "probe_dataset": "data.probe_dataset",
    "data_dir": "data.data_dir",
    "img_size": "data.img_size",
    "in_chans": "data.in_chans",
    "limit": "data.limit",
    "model": "model.name",
    "patch_size": "model.patch_size",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "blr": "train.blr",
    "warmup_epochs": "train.warmup_epochs",
    "weight_decay": "train.weight_decay",
    "device": "system.device",
    "precision": "system.precision",
    "compile_": "system.compile",
    "workers": "system.workers",
    "deterministic": "system.deterministic",
}


def given(context: typer.Context) -> dict[str, Any]:
    """The settings that the command's flags make, by their paths; those that are not given make none."""
    values = {path: context.params.get(name) for name, path in SETTINGS.items()}
    plain = {path: str(value) if isinstance(value, Path) else value for path, value in values.items()}
    return {path: value for path, value in plain.items() if value is not None}


def load_plugins(plugins: list[str] | None) -> list[str]:
    """Import plugins; the names of the strategies that they register."""
    from maskbench.strategy import REGISTRY

    return [name for plugin in plugins or [] for name in REGISTRY.load(plugin)]


def writing(folder: Path, write: Callable[[], T]) -> T:
    """What `write` returns; a disk that refuses is the user's to put right."""
    try:
        return write()
    except OSError as error:
        if error.errno in BROKEN:
            raise Failure(trouble(error)) from None
        raise UsageError(f"cannot write under {folder}: {error.strerror}; free space or change permissions") from None


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C and SIGTERM leave with the command that goes on; outside a training step, where there is nothing to save,
    at once."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted("stopped", number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as interruption:
        many = ", in any number of processes" if launched().world > 1 else ""
        again = shlex.join(["maskbench", *(word for word in sys.argv[1:] if word != "--force")])
        number = getattr(interruption, "signal", signal.SIGINT)
        raise Interrupted(f"{str(interruption) or 'stopped'}; to go on{many}: {again}", number) from None
    finally:
        signal.signal(signal.SIGTERM, before)
