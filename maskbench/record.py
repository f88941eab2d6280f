"""What is kept of a run: one JSON file with everything that a table, a plot or a doubter needs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from maskbench.runtime.atomic_files import write_atomically

SCHEMA_VERSION = 1
VALIDATION = "validation/"  # prefix of the metrics of a tuning trial, which never sees test
EXTERNAL = "external"  # the objective of encoders from elsewhere


class RunRecord(BaseModel):
    """record.json, schema 1. Accuracies are shares in [0, 1]; what depends on clock or machine is under `cost/`."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Literal["complete", "diverged", "failed"]
    error: str | None = None
    config: dict[str, Any]
    strategy: dict[str, Any]  # name, version, parameters, distribution
    objective: dict[str, Any]  # name, version, parameters
    dataset: dict[str, Any]  # name, fingerprint, sizes, mean, std
    model: dict[str, Any]  # name and arguments for timm.create_model, parameter counts
    seed: int
    metrics: dict[str, float]
    protocols: dict[str, int]
    diagnostics: dict[str, float | list[list[float]]]
    curve: list[dict[str, float]]
    warnings: list[str] = []
    chosen: dict[str, Any]
    interruptions: int = 0
    environment: dict[str, Any]

    def write(self, path: Path) -> None:
        """To `path`, in a folder that exists, whole or not at all."""
        write_atomically(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


class Unreadable(ValueError):
    """A file that holds no record of a schema that we know."""


def read_record(path: Path) -> RunRecord:
    """The record in `path`; Unreadable with the reason for one that is broken, foreign or of a newer schema."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: not a readable record ({error})") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise Unreadable(f"{path}: not a maskbench record (no schema_version)")
    if version > SCHEMA_VERSION:
        raise Unreadable(f"{path}: schema {version} is newer than {SCHEMA_VERSION}; upgrade maskbench")
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise Unreadable(f"{path}: {where}: {detail['msg']}") from None


def record_paths(folder: Path) -> Iterator[Path]:
    """The records under a results folder, in order of their names; `folder` may also be one run's."""
    if (folder / "record.json").exists():
        yield folder / "record.json"
    yield from sorted((folder / "runs").glob("*/record.json"))
