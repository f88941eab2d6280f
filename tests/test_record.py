"""A record is data from somebody else: checked once at the door, against the schema and against itself."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskbench.record import UnreadableRecord, parse_record, read_record, read_record_of_run
from tests.helpers.records import record, write_records

REMOVE = object()
CHANGES: list[tuple[str, Any, str]] = [
    ("run_id", "../../etc/random-0-s0", "run_id: '../../etc/random-0-s0' is no run's name"),
    ("run_id", "random-$(touch x)-s0", "is no run's name"),
    ("run_id", "random-0;rm -s0", "is no run's name"),
    ("run_id", "--plugin=x-s0", "is no run's name"),
    ("run_id", "random-0-s0\n", "is no run's name"),
    ("run_id", "random-" + "0" * 5000 + "-s0", "is no run's name"),
    ("run_id", "gmml-0-s0", "not of the strategy random and the seed 0"),
    ("run_id", "random-0-s1", "not of the strategy random and the seed 0"),
    ("seed", -1, "seed: Input should be greater than or equal to 0"),
    ("seed", 10**400, "seed is an integer of more than 64 bits"),
    ("config.seed", 1, "seed: 0 in the record, 1 in its configuration"),
    ("config.strategy.name", "gmml", "strategy: random in the record, gmml in its configuration"),
    ("config.objective.name", "simmim", "objective: mae in the record, simmim in its configuration"),
    ("metrics.linear/top1/mean", float("nan"), "metrics.linear/top1/mean is nan"),
    ("metrics.linear/top1/mean", float("inf"), "metrics.linear/top1/mean is inf"),
    ("metrics.linear/top1/mean", 52.0, "an accuracy is a share"),
    ("metrics.linear/top1/mean", "high", "metrics.linear/top1/mean: Input should be a valid number"),
    ("metrics.cost/train_s", 1e300, "Input should be less than or equal to 1000"),
    ("metrics.label", 1.0, "label is the name of something else"),
    ("metrics.linear/top1/\x1b[2J", 0.5, "control characters"),
    ("metrics." + "x" * 1000, 0.5, "1,000 characters"),
    ("diagnostics.seed", 1.0, "seed is the name of something else"),
    ("curve", [{"loss": 1.0}], "row 0 has no epoch"),
    ("curve", [{"epoch": 1, "online/knn/top1/mean": 0.5}], "row 0 has no images"),
    ("curve", "rows", "curve: Input should be a valid list"),
    ("strategy", {}, "strategy: name: Field required"),
    ("strategy.name", "random\n", "control characters"),
    ("strategy.name", "r" * 300, "300 characters"),
    ("strategy.version", REMOVE, "strategy: version: Field required"),
    ("objective.name", 3, "objective: name: Input should be a valid string"),
    ("dataset.sizes", {"train": 1}, "dataset: sizes.test: Field required"),
    ("dataset.sizes.test", -1, "dataset: sizes.test"),
    ("dataset.name", "\x1b]0;title\x07", "control characters"),
    ("dataset.probed", {"name": "x"}, "dataset: probed.fingerprint"),
    ("model.arguments", {}, "model: arguments.patch_size: Field required"),
    ("environment.versions", ["x"], "environment: versions"),
    ("environment.gpu", {"a": 1}, "environment: gpu"),
    ("config.data", REMOVE, "config: data: Field required"),
    ("config.data.img_size", [32], "config: data.img_size"),
    ("config.train.budget", {}, "config: train.budget"),
    ("config.probes", [1], "config: probes.0"),
    ("config.primary", "test/top1", "config: primary"),
    ("config.tuning", {"row": "a"}, "config: tuning.settings"),
    ("protocols.knn", "one", "protocols.knn"),
    ("schema_version", "1", "no schema_version"),
    ("extra", 1, "extra: Extra inputs are not permitted"),
]


def changed(path: str, value: Any) -> str:
    """A sound record as JSON, but for one value."""
    content = json.loads(record("random", run_id="random-0-s0").model_dump_json())
    *sections, name = path.split(".") if not path.startswith(("metrics.", "diagnostics.")) else path.split(".", 1)
    part = content
    for section in sections:
        part = part[section]
    if value is REMOVE:
        del part[name]
    else:
        part[name] = value
    return json.dumps(content)


@pytest.mark.parametrize(("path", "value", "reason"), CHANGES, ids=[path[:40] for path, _, _ in CHANGES])
def test_a_value_that_is_wrong_is_named_in_one_line(path: str, value: Any, reason: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(changed(path, value))
    with pytest.raises(UnreadableRecord) as refused:
        read_record(tmp_path / "record.json")
    message = str(refused.value)
    assert reason in message and message.startswith(f"{tmp_path}/record.json: ")
    assert "\n" not in message and len(message) < 400 + len(str(tmp_path))


def test_what_a_later_version_adds_is_kept() -> None:
    assert parse_record(changed("strategy.source", "new")).strategy["source"] == "new"
    assert parse_record(changed("config.train.ema", 0.5)).config["train"]["ema"] == 0.5


def write_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 * 2**20)


KINDS: list[tuple[Callable[[Path], Any], str]] = [
    (os.mkfifo, "it is a pipe, no regular file"),
    (Path.mkdir, "it is a folder, no regular file"),
    (lambda path: path.symlink_to("/dev/zero"), "it is a device, no regular file"),
    (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    (lambda path: path.symlink_to("nowhere"), "No such file"),
    (write_large, "it has 100 MiB; at most 8 MiB are read"),
    (lambda path: path.write_text("[" * 200_000), "deep"),
    (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8"),
]


@pytest.mark.parametrize(("make", "reason"), KINDS)
def test_only_a_regular_file_of_a_bounded_size_is_read(
    make: Callable[[Path], Any], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "record.json")
    with pytest.raises(UnreadableRecord, match=f"record.json: not a readable record .*{reason}"):
        read_record(tmp_path / "record.json")


def test_a_runs_record_has_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = record("random", run_id="random-0-s0"), record("random", 1, run_id="random-0-s1")
    runs = write_records(tmp_path, one, other) / "runs"
    (runs / "random-0-s2").symlink_to("random-0-s0")
    (runs / "copy").mkdir()
    one.write(runs / "copy" / "record.json")
    other.write(runs / "random-0-s1" / "record.json")
    one.write(runs / "random-0-s1" / "record.json")
    assert read_record_of_run(runs / "random-0-s0") == one
    for name in ("random-0-s1", "random-0-s2", "copy"):
        with pytest.raises(UnreadableRecord, match=f"it is of the run random-0-s0, and the folder is named {name}"):
            read_record_of_run(runs / name)
    monkeypatch.chdir(runs / "random-0-s0")
    assert read_record_of_run(Path()) == one
