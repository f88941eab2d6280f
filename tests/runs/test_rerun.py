"""Repeating a stored run: to the last digit where nothing differs, within the interval of the test set elsewhere."""

import json
import math
from pathlib import Path

import pytest

from maskbench.errors import UsageError
from maskbench.record import RunRecord, read_record
from maskbench.runs.moved_data import find_moved_data
from maskbench.runs.plan import make_plan
from maskbench.runs.reporter import Terminal
from maskbench.runs.rerun import compare_numbers, rerun
from maskbench.runs.run import run
from tests.helpers.command_line import maskbench
from tests.helpers.image_files import write_folders
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
    content["run_id"] = "my-mask-01234567-s0"
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
    write_folders(tmp_path / "photos", "train", 0, 300)
    write_folders(tmp_path / "photos", "test", 300, 30)
    done = maskbench("rerun", str(stored), "--dataset", str(tmp_path / "photos"), cwd=tmp_path)
    assert done.code == 2 and "are not the record's: fingerprint" in done.err and "--dataset names others" in done.err


@pytest.mark.parametrize("path", ["nowhere", "nowhere/record.json"])
def test_a_missing_record_is_one_line(path: str, tmp_path: Path) -> None:
    done = maskbench("rerun", path, cwd=tmp_path)
    assert done.code == 2 and "is not the folder of a finished run: there is no such folder" in done.err


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run on them that knows them by relative paths."""
    root = tmp_path_factory.mktemp("work") / "project"
    write_folders(root / "photos", "train", 0, 30)
    write_folders(root / "photos", "test", 50, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        settings = {"data__dataset": "./photos/", "data__limit": None, "train__epochs": 1, "probes": "knn"}
        run(tiny_config(Path("results"), **settings))
    return root


def test_relative_data_are_found_from_another_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (project / "results" / "runs").iterdir()
    monkeypatch.chdir(tmp_path)
    verdict = rerun(folder, {}, tmp_path / "again", Terminal(), None)
    assert verdict.holds
    said = capsys.readouterr().err
    assert f"data.dataset is {project}/photos, as seen from a folder above the record" in said
    assert "what they mean has changed" not in said


def test_data_that_are_not_found_are_one_line_that_can_be_typed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = (project / "results" / "runs").iterdir()
    copied = tmp_path / "record.json"
    copied.write_bytes((folder / "record.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    message = f"data in ./photos are not found from {tmp_path}, nor .*; type: maskbench rerun {copied} --dataset PATH$"
    with pytest.raises(UsageError, match=message):
        rerun(copied, {}, tmp_path / "again", Terminal(), None)
    assert find_moved_data(copied, {"dataset": "./photos"}, {"data.dataset": str(project / "photos")}) == {}


def test_every_relative_path_of_a_record_is_looked_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = project / "results" / "runs"
    monkeypatch.chdir(project.parent.parent)
    found = find_moved_data(record, {"dataset": "wds/photos", "probe_dataset": "./photos"}, {})
    assert found == {"data.dataset": f"wds/{project}/photos", "data.probe_dataset": f"{project}/photos"}
    assert find_moved_data(record, {"dataset": "wds/train", "data_dir": "photos"}, {}) == {
        "data.data_dir": f"{project}/photos"
    }
    assert find_moved_data(record, {"dataset": "torch/cifar10", "probe_dataset": None, "data_dir": None}, {}) == {}
    for name, flag in (("probe_dataset", "--probe-dataset"), ("data_dir", "--data-dir")):
        with pytest.raises(UsageError, match=f"{flag} PATH$"):
            find_moved_data(record, {"dataset": "shapes", name: "./gone"}, {})
