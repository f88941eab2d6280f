"""Repeating a stored run: to the last digit where nothing differs, within the interval of the test set elsewhere."""

import json
import math
from pathlib import Path

import pytest

from maskbench.record import RunRecord, read_record
from maskbench.runs.plan import make_plan
from maskbench.runs.rerun import compare_numbers
from maskbench.runs.run import run
from tests.helpers.command_line import maskbench
from tests.helpers.tiny_run import tiny_config


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(tmp_path_factory.mktemp("results"), probes="knn")
    run(config)
    return make_plan(config).folder


def changed(record: RunRecord, **metrics: float) -> RunRecord:
    return record.model_copy(update={"metrics": {**record.metrics, **metrics}})


def test_a_record_holds_on_the_machine_that_made_it(stored: Path, tmp_path: Path) -> None:
    done = maskbench("rerun", str(stored), "--output", str(tmp_path / "again"), cwd=tmp_path)
    assert done.code == 0, done.err
    assert "DOES NOT HOLD" not in done.out and "To the last digit" in done.out
    assert "curve/loss" in done.out and "knn/top1/mean" in done.out and "cost/" not in done.out
    repeated = maskbench("rerun", str(stored / "record.json"), "--output", str(tmp_path / "again"), cwd=tmp_path)
    assert repeated.code == 0 and "steps of" in repeated.err, "it is repeated, not read"


def test_a_record_that_does_not_hold_is_told_and_exits_with_1(stored: Path, tmp_path: Path) -> None:
    content = json.loads((stored / "record.json").read_text())
    content["metrics"]["knn/top1/mean"] += 1e-9
    (tmp_path / "record.json").write_text(json.dumps(content))
    done = maskbench("rerun", str(tmp_path), "--output", str(tmp_path / "again"), cwd=tmp_path)
    assert done.code == 1
    assert [line.split("|")[1].strip() for line in done.out.splitlines() if "DOES NOT HOLD" in line] == [
        "knn/top1/mean"
    ]


def test_elsewhere_accuracies_may_move_within_their_interval(stored: Path) -> None:
    record = read_record(stored / "record.json")
    name, count = "knn/top1/mean", record.dataset["sizes"]["test"]
    share, z = record.metrics[name], 1.959963984540054
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    other = record.model_copy(update={"environment": {**record.environment, "threads": 99}})
    verdict = compare_numbers(record, other)
    assert verdict.differences == [f"threads is 99 here, {record.environment['threads']} there"]
    (claim,) = [claim for claim in verdict.checks if claim.name == name]
    assert (claim.low, claim.high) == pytest.approx((centre - half, centre + half), rel=1e-9)
    assert {claim.name for claim in verdict.checks} == {"knn/top1/cls", "knn/top1/mean"}
    assert compare_numbers(record, changed(other, **{name: claim.high - 1e-6})).holds
    assert not compare_numbers(record, changed(other, **{name: claim.high + 1e-6})).holds


def test_a_record_that_was_resumed_elsewhere_has_an_interval(stored: Path) -> None:
    record = read_record(stored / "record.json")
    moved = record.model_copy(update={"warnings": ["resumed elsewhere, so the last digits may differ: ..."]})
    assert compare_numbers(moved, record).differences == moved.warnings


def test_a_plugin_that_is_not_given_is_named(stored: Path, tmp_path: Path) -> None:
    content = json.loads((stored / "record.json").read_text())
    content["strategy"] |= {"name": "my-mask", "distribution": "my_mask.py sha256:0123abcd"}
    content["config"]["strategy"] = {"name": "my-mask", "parameters": {}}
    (tmp_path / "record.json").write_text(json.dumps(content))
    done = maskbench("rerun", str(tmp_path), "--output", str(tmp_path / "again"), cwd=tmp_path)
    expected = "strategy my-mask of the record comes from the plugin my_mask.py sha256:0123abcd; give it"
    assert done.code == 2 and f"{expected}, e.g. --plugin my_mask.py" in done.err and not (tmp_path / "again").exists()


def test_the_record_itself_is_never_repeated_in_place(stored: Path, tmp_path: Path) -> None:
    before = (stored / "record.json").read_bytes()
    done = maskbench("rerun", str(stored), "--output", str(stored.parents[1]), cwd=tmp_path)
    assert done.code == 2 and "is where the record lies" in done.err
    assert (stored / "record.json").read_bytes() == before


def test_other_data_are_refused(stored: Path, tmp_path: Path) -> None:
    from tests.helpers.image_files import write_folders

    write_folders(tmp_path / "photos", "train", 0, 300)
    write_folders(tmp_path / "photos", "test", 300, 30)
    done = maskbench("rerun", str(stored), "--dataset", str(tmp_path / "photos"), cwd=tmp_path)
    assert done.code == 2 and "are not the record's: fingerprint" in done.err and "--dataset names others" in done.err


@pytest.mark.parametrize("path", ["nowhere", "nowhere/record.json"])
def test_a_missing_record_is_one_line(path: str, tmp_path: Path) -> None:
    done = maskbench("rerun", path, cwd=tmp_path)
    assert done.code == 2 and "is not the folder of a finished run: there is no such folder" in done.err
