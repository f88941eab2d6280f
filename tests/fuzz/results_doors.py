"""What is read back from a results folder: records, claims, predictions, the status of runs."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.inputs import HOSTILE_MODEL, SPECIAL_FILES, Input, a_run, write
from tests.fuzz.mutations import as_json, as_yaml, spoil_bytes, spoil_fields, spoil_json, spoil_yaml


def records(sound: Path) -> Iterator[Input]:
    """record.json: one of four is spoilt; the table of the others appears."""
    place = f"{a_run(sound).relative_to(sound)}/record.json"
    whole = (sound / place).read_bytes()
    document = json.loads(whole)
    for number, (name, content) in enumerate([*spoil_json(whole), *spoil_fields(document, as_json)]):
        command = ("table", "status", "table", "plot", "table", "report")[number % 6 if number % 5 == 0 else 0]
        yield Input(name, partial(write, place, content), (command, "out"), (0,))
    for key, value in HOSTILE_MODEL.items():
        changed = json.loads(whole)
        changed["config"]["model"]["kwargs"][key] = changed["model"]["arguments"][key] = value
        yield Input(f"model {key}", partial(write, place, as_json(changed)), ("rerun", place))
    for name, copy_run in (("copied", _copy_run), ("linked", _link_run), ("renamed", _rename_run)):
        yield Input(name, copy_run, ("table", "out"), (0,))
    for name, special in SPECIAL_FILES.items():
        yield Input(name, partial(special, place), ("table", "out"), (0,))


def _copy_run(folder: Path) -> None:
    run = a_run(folder)
    shutil.copytree(run, run.with_name("another"))


def _link_run(folder: Path) -> None:
    run = a_run(folder)
    run.with_name("another").symlink_to(run.resolve())


def _rename_run(folder: Path) -> None:
    run = a_run(folder)
    run.rename(run.with_name("block-00000000-s9"))


def claims(_: Path) -> Iterator[Input]:
    """claims.yaml of a results folder."""
    document = {"claims": [{"says": "a", "source": "b", "better": "block", "than": "random", "metric": "knn/top1/cls"}]}
    fields = spoil_fields(document["claims"][0], lambda claim: as_yaml({"claims": [claim]}))
    for name, content in [*spoil_yaml(as_yaml(document)), *fields]:
        yield Input(name, partial(write, "out/claims.yaml", content), ("table", "out"), (0,))


def predictions(sound: Path) -> Iterator[Input]:
    """predictions.npz of one run."""
    place = f"{a_run(sound).relative_to(sound)}/predictions.npz"
    whole = (sound / place).read_bytes()
    with np.load(sound / place) as stored:
        arrays = dict(stored)
    changed: dict[str, dict[str, Any]] = {
        "no labels": {key: value for key, value in arrays.items() if key != "labels"},
        "labels alone": {"labels": arrays["labels"]},
        "labels too short": {**arrays, "labels": arrays["labels"][:3]},
        "all too short": {key: value[..., :3] for key, value in arrays.items()},
        "floats": {key: value.astype(np.float64) * np.nan for key, value in arrays.items()},
        "texts": {key: value.astype("U30") for key, value in arrays.items()},
        "a scalar": {key: np.array(3) for key in arrays},
        "three dimensions": {key: value[None, None] for key, value in arrays.items()},
        "classes that do not exist": {key: np.full(value.shape, 10**4) for key, value in arrays.items()},
        "other names": {f"{key}\x1b[31m$": value for key, value in arrays.items()},
    }
    contents = [*spoil_bytes(whole), *((name, _npz(content)) for name, content in changed.items())]
    contents.append(("objects", _npz({**arrays, "knn/cls": np.array([{"a": 1}], dtype=object)})))
    contents.append(("6 GiB", _zip_bomb()))
    for name, content in contents:
        yield Input(name, partial(write, place, content), ("table", "out"), (0,))
    for name, special in SPECIAL_FILES.items():
        yield Input(name, partial(special, place), ("table", "out"), (0,))


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _zip_bomb() -> bytes:
    """An archive whose directory speaks of 6 GiB of int64 zeros; the member holds a megabyte of them."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (6 << 27,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", header.getvalue() + bytes(1 << 20))
    return buffer.getvalue()


def live_status(sound: Path) -> Iterator[Input]:
    """ticket.json and progress.json of a run that has not ended."""
    documents = {
        "ticket.json": {"on": "local", "host": "here", "pid": 1, "job": "17_3"},
        "progress.json": {"step": 3, "steps": 10, "seconds": 1.0, "time": 1.0, "label": "random"},
    }
    run = "out/runs/random-00000000-s0"
    for file, document in documents.items():
        for name, content in [*spoil_json(as_json(document)), *spoil_fields(document, as_json)]:
            yield Input(f"{file} {name}", partial(write, f"{run}/{file}", content), ("status", "out"), (0,))
        for name, special in SPECIAL_FILES.items():
            yield Input(f"{file} {name}", partial(_special_in, run, file, special), ("status", "out"), (0,))


def _special_in(run: str, file: str, special: Callable[[str, Path], None], folder: Path) -> None:
    (folder / run).mkdir(parents=True)
    special(f"{run}/{file}", folder)
