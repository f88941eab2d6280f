"""The record of a run: one JSON file with everything that tables and plots need, and that a repetition needs."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from maskbench.config import record_schema as schema
from maskbench.config.plain_files import MAX_RECORD, NotPlain, parse_json, read_regular_file, shorten
from maskbench.config.settings import EXTERNAL as EXTERNAL
from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import write_atomically

SCHEMA_VERSION = 1
VALIDATION = "validation/"  # prefix of the metrics of a tuning trial, which never sees test
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}-s[0-9]{1,20}")  # also a folder's name, and a word of the shell


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
    config: schema.Config
    strategy: schema.Strategy
    objective: schema.Objective
    dataset: schema.Dataset
    model: schema.Model
    seed: schema.Count
    metrics: schema.Metrics
    protocols: dict[str, int]
    diagnostics: schema.Diagnostics
    curve: schema.Curve
    warnings: list[str] = []
    chosen: dict[str, Any]
    interruptions: int = 0
    environment: schema.Environment

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
    """Read a record. Everything in it is data: it is held against the schema, and its parts against each other.

    Args:
        path: A record.json.

    Raises:
        UnreadableRecord: The file is no regular one, too large, broken, not a record, or has a newer schema; a number
            is not finite; name, seed and configuration do not agree. The message says which, in one line.
    """
    try:
        return parse_record(read_regular_file(path, MAX_RECORD))
    except OSError as error:
        raise UnreadableRecord(f"{path}: not a readable record ({error.strerror})") from None
    except UnreadableRecord as reason:
        raise UnreadableRecord(f"{path}: {reason}") from None
    except NotPlain as reason:
        raise UnreadableRecord(f"{path}: not a readable record ({reason})") from None


def read_record_of_run(folder: Path) -> RunRecord:
    """Read the record in a run's folder, which has the run's name. Arguments and errors as `read_record`.

    Raises:
        UnreadableRecord: Also where it is another run's, as in a copied, renamed or linked folder.
    """
    record = read_record(folder / "record.json")
    name = os.path.basename(os.path.abspath(folder))  # noqa: PTH100, PTH119  "." has a name, a link keeps its own
    if record.run_id != name:
        raise UnreadableRecord(
            f"{folder / 'record.json'}: it is of the run {record.run_id}, and the folder is named {name}; "
            f"a run counts once, under its own name"
        )
    return record


def parse_record(text: str | bytes) -> RunRecord:
    """The record that a JSON text holds. UnreadableRecord, NotPlain: see `read_record`; without the file's name."""
    content = parse_json(text)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UnreadableRecord("not a maskbench record (no schema_version)")
    if version > SCHEMA_VERSION:
        raise UnreadableRecord(f"schema {version} is newer than {SCHEMA_VERSION}; upgrade maskbench")
    try:
        record = RunRecord.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise UnreadableRecord(f"{where[:80]}: {detail['msg'].removeprefix('Value error, ')}") from None
    _ensure_consistent(record)
    return record


def _ensure_consistent(record: RunRecord) -> None:
    """UnreadableRecord where the parts of a record contradict each other: its numbers would stand in a wrong row."""
    strategy, config = record.strategy["name"], record.config
    if not RUN_ID.fullmatch(record.run_id):
        raise UnreadableRecord(f"run_id: {shorten(record.run_id)} is no run's name, such as random-805e0c3a-s0")
    if not (record.run_id.startswith(f"{strategy}-") and record.run_id.endswith(f"-s{record.seed}")):
        raise UnreadableRecord(
            f"run_id: {record.run_id} is not of the strategy {strategy} and the seed {record.seed}, as the record is"
        )
    online = any(name.startswith("online/") for row in record.curve for name in row)
    if online and record.status == "complete" and not record.metrics.get("cost/gflops_per_image", 0.0) > 0:
        raise UnreadableRecord("metrics: no cost/gflops_per_image, by which its curve is compared with others")
    pairs = {
        "seed": (record.seed, config["seed"]),
        "strategy": (strategy, config["strategy"]["name"]),
        "objective": (record.objective["name"], config["objective"]["name"]),
    }
    for name, (own, configured) in pairs.items():
        if own != configured:
            raise UnreadableRecord(f"{name}: {own} in the record, {configured} in its configuration")


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
    make_some = f"`maskbench run --output {shlex.quote(str(folder))}`"
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; run {make_some} first")
    if next(record_paths(folder), None) is None:
        below = results_folders_below(folder)
        some = f"give one of {', '.join(below)}" if below else f"run {make_some} first"
        raise UsageError(f"no records in {folder}; {some}")
