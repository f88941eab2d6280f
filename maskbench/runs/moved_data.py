"""Where the data of a record are, when it is repeated from another folder than the one that it was made in."""

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maskbench.config.data_paths import split_dataset
from maskbench.errors import UsageError

FLAGS = {"dataset": "--dataset", "probe_dataset": "--probe-dataset", "data_dir": "--data-dir"}


def find_moved_data(record: Path, data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, str]:
    """Find the relative paths of a record's data that lead nowhere from the working directory.

    They began in the working directory of the run, which is usually a folder above the record.

    Args:
        record: The record, or the folder that holds it.
        data: The section `data` of its configuration.
        changes: Settings by dotted path that the user gives; they are not looked for.

    Returns:
        The place of each such path, by dotted path of the setting.

    Raises:
        UsageError: A path is not found from any folder above the record either. The message says what to type.
    """
    found = {}
    for name, path in _list_relative_paths(data):
        if f"data.{name}" in changes or os.path.exists(path):  # noqa: PTH110  False also for a long name
            continue
        places = [folder / path for folder in record.resolve().parents if os.path.exists(folder / path)]  # noqa: PTH110
        if not places:
            raise UsageError(
                f"the record's data in {path} are not found from {Path.cwd()}, nor from the folders above the record; "
                f"type: maskbench rerun {shlex.quote(str(record))} {FLAGS[name]} PATH"
            )
        found[f"data.{name}"] = _with_prefix(data, name, places[0])
    return found


def _list_relative_paths(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and relative path of each setting that is one."""
    data_dir = data.get("data_dir")
    if data_dir and not Path(data_dir).is_absolute():
        yield "data_dir", data_dir
    for name in ("dataset", "probe_dataset"):
        prefix, path = split_dataset(data.get(name) or "")
        if path is not None and not Path(path).is_absolute() and not (prefix and data_dir):
            yield name, path


def _with_prefix(data: Mapping[str, Any], name: str, place: Path) -> str:
    if name == "data_dir":
        return str(place)
    prefix, _ = split_dataset(data[name])
    return f"{prefix}{place}"
