"""The record of a run: one JSON file with everything that tables and plots need, and that a repetition needs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from maskbench.config.settings import EXTERNAL as EXTERNAL
from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import write_atomically

SCHEMA_VERSION = 1
VALIDATION = "validation/"  # prefix of the metrics of a tuning trial, which never sees test


class RunRecord(BaseModel):
    """The content of record.json, schema 1.

    Accuracies are shares in [0, 1]. Metrics that depend on the clock or the machine begin with `cost/`; all others are
    the same when the run is repeated on the same machine.

    Attributes:
        schema_version: Version of this format; a newer one cannot be read.
        run_id: Name of the run's folder: strategy, digest of the configuration, seed.
        status: `complete`; `diverged`, where the loss became infinite or NaN; `failed`, after an error.
        error: The message of a run that is not complete, in one line.
        config: The whole configuration, as `maskbench run --config` reads it.
        strategy: `name`, `version`, `parameters`, and `distribution`: the package or plugin file that it comes from.
        objective: `name`, `version` and `parameters`.
        dataset: `name`, `fingerprint` (digest of the content), `sizes` (number of images by split), `mean` and `std`
            (by channel, of pixels in [0, 1]); `probed`, the same of the data set for probes, where it is another.
        model: `name` and `arguments` for `timm.create_model`, `encoder_parameters` and `head_parameters` (counts).
        seed: The seed of weights, order of images, crops and masks.
        metrics: By name. `<probe>/<measure>/<pooling>` for probes, e.g. `linear/top1/mean`. `cost/`: `train_s` and
            `wall_s` (seconds of training, and of the whole run), `images_per_s` (end to end), `model_images_per_s`
            (model alone), `mask_ms` (milliseconds a batch for masks), `mask_share`, `augment_share` and
            `data_wait_share` (of the training's time, in [0, 1]), `gflops_per_image` (training, forward and backward),
            `peak_memory_mib` (of the GPU, or of the process),
            `checkpoint_s` (seconds to write a checkpoint). A tuning trial has `validation/` before probe names.
        protocols: Version of each probe; numbers of different versions are never compared.
        diagnostics: Measurements of the masks: `realised_ratio_mean` and `realised_ratio_sd` (share hidden, in [0, 1]),
            `hides_nothing` and `hides_everything` (share of the images of which nothing, or everything, is hidden),
            `visible_tokens` (patches that the encoder sees), `components` (connected groups of hidden patches),
            `group_size` (patches in a group), `overlap` (share of the hidden patches that a second draw hides again),
            `object_hidden` (share of the object), `coverage` (rows x columns: how often each patch is hidden);
            `trivial/NAME`, the loss of predictions that understand nothing (docs/read-a-table.md).
        curve: One row for each reading in the course of training: `epoch`, `step`, `images`, `loss`, `lr`,
            `cost/train_s` (seconds so far), and online probes, e.g. `online/knn/top1/mean`. Empty without training.
        warnings: Sentences about what was unusual.
        chosen: Hyperparameters that probes selected on validation images, by probe.
        interruptions: How often the run was interrupted and resumed.
        environment: Hardware, precision, and versions of Python and packages.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Literal["complete", "diverged", "failed"]
    error: str | None = None
    config: dict[str, Any]
    strategy: dict[str, Any]
    objective: dict[str, Any]
    dataset: dict[str, Any]
    model: dict[str, Any]
    seed: int
    metrics: dict[str, float]
    protocols: dict[str, int]
    diagnostics: dict[str, float | list[list[float]]]
    curve: list[dict[str, float]]
    warnings: list[str] = []
    chosen: dict[str, Any]
    interruptions: int = 0
    environment: dict[str, Any]

    @property
    def strategy_plugin(self) -> str | None:
        """What --plugin names for the strategy: a file or a module. None where it comes from an installed package."""
        origin, is_file, _ = str(self.strategy.get("distribution", "")).partition(" sha256:")
        return origin if origin and (is_file or " " not in origin) else None  # a package has its version

    def write(self, path: Path) -> None:
        """Write to `path`, in a folder that exists: the whole file or nothing."""
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


class UnreadableRecord(ValueError):
    """A file that is not a record, or is one of a newer schema."""


def read_record(path: Path) -> RunRecord:
    """Read a record.

    Args:
        path: A record.json.

    Raises:
        UnreadableRecord: The file is broken, is not a record, or has a newer schema; the message says which.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnreadableRecord(f"{path}: not a readable record ({reason})") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UnreadableRecord(f"{path}: not a maskbench record (no schema_version)")
    if version > SCHEMA_VERSION:
        raise UnreadableRecord(f"{path}: schema {version} is newer than {SCHEMA_VERSION}; upgrade maskbench")
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise UnreadableRecord(f"{path}: {where}: {detail['msg'].removeprefix('Value error, ')}") from None


def record_paths(folder: Path) -> Iterator[Path]:
    """The records under a results folder, in order of their names; `folder` may also be one run's."""
    if (folder / "record.json").exists():
        yield folder / "record.json"
    yield from sorted((folder / "runs").glob("*/record.json"))


def locate_record(run: Path) -> Path:
    """The record.json of one run.

    Args:
        run: The run's folder, or the record.json itself.

    Raises:
        UsageError: There is none. The message names the runs of a results folder, or the results folders below.
    """
    if run.is_file():
        return run
    if (run / "record.json").is_file():
        return run / "record.json"
    raise UsageError(f"{run} is not the folder of a finished run{_what_there_is(run)}")


def _what_there_is(run: Path) -> str:
    """The end of the line that refuses a folder without record.json."""
    if not run.is_dir():
        return ": there is no such folder; give one such as results/quick/runs/RUN"
    if runs := [str(path.parent) for path in record_paths(run)]:
        return f": it holds {len(runs)} of them; give one, e.g. {runs[0]}"
    if below := results_folders_below(run):
        return f": runs are in {', '.join(below)}; give one such as {below[0]}/runs/RUN"
    if (run / "config.yaml").is_file():
        return ": it has no record.json yet; repeat the command that started the run, which goes on where it stopped"
    return ": it has no record.json; give a folder such as results/quick/runs/RUN"


def results_folders_below(folder: Path) -> list[str]:
    """The folders one or two levels below that hold runs with a record, in order of their names."""
    patterns = ("*/runs/*/record.json", "*/*/runs/*/record.json")
    return sorted({str(path.parents[2]) for pattern in patterns for path in folder.glob(pattern)})


def ensure_records(folder: Path) -> None:
    """UsageError where a results folder holds no record, with the names of the results folders below it."""
    if folder.is_file():
        raise UsageError(f"{folder} is a file; give a results folder, as `maskbench run --output` writes it")
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; run `maskbench run --output {folder}` first")
    if next(record_paths(folder), None) is None:
        below = results_folders_below(folder)
        some = f"give one of {', '.join(below)}" if below else f"run `maskbench run --output {folder}` first"
        raise UsageError(f"no records in {folder}; {some}")
