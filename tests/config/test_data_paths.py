"""However the path of a data set is spelled, it is one data set, with one run id; ids of committed runs stay."""

import json
from pathlib import Path

import pytest

from maskbench.config.data_paths import spell_dataset
from maskbench.config.resolve import parse_config
from maskbench.runs.plan import make_plan
from tests.helpers.tiny_run import tiny_config

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a data set in it and one beside it."""
    for name in ("project/tex", "shared/photos"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("PWD", raising=False)
    return tmp_path / "project"


def test_one_path_is_one_run(here: Path) -> None:
    for paths in (
        ["./tex", "./tex/", "tex", "tex/", "./././tex", "tex/../tex", f"{here}/tex", f"{here}/tex/", f"{here}/./tex"],
        ["../shared/photos", "../shared/photos/", "./../shared/photos", f"{here.parent}/shared/photos"],
        ["wds/tex", "wds/tex/", "wds/./tex", f"wds/{here}/tex"],
        ["hfds/tex", "hfds/./tex/", f"hfds/{here}/tex"],
    ):
        ids = {make_plan(tiny_config(here, data__dataset=path, data__limit=None)).run_id for path in paths}
        assert len(ids) == 1, paths
        probed = {make_plan(tiny_config(here, data__probe_dataset=path)).run_id for path in paths}
        assert len(probed) == 1, paths


@pytest.mark.parametrize(
    ("typed", "spelled"),
    [
        ("./tex/", "./tex"),
        ("tex", "./tex"),
        ("nowhere", "nowhere"),  # no folder: an unknown name
        ("../shared/photos/", "../shared/photos"),
        ("/far/away/", "/far/away"),  # nothing in common but the root: the same from everywhere
        ("shapes", "shapes"),
        ("torch/cifar10", "torch/cifar10"),
        ("hfds/user/photos", "hfds/user/photos"),
        ("wds/more/shards/", "wds/more/shards"),
    ],
)
def test_spelling(typed: str, spelled: str, here: Path) -> None:
    (here / "shapes").mkdir()
    assert spell_dataset(typed, None) == spelled


def test_a_shells_directory_that_is_another_says_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that was started with a working directory of its own; a link to the directory is believed."""
    monkeypatch.setenv("PWD", "/far/project")
    assert spell_dataset("/far/away", None) == "/far/away"
    (here.parent / "link").symlink_to(here)
    monkeypatch.setenv("PWD", str(here.parent / "link"))
    assert spell_dataset(f"{here.parent}/link/tex", None) == "./tex"


def test_shards_are_relative_to_their_data_dir(here: Path) -> None:
    assert spell_dataset("wds/shards/", str(here.parent)) == "wds/shards"
    assert spell_dataset(f"wds/{here}/tex", str(here.parent)) == "wds/project/tex"


def test_home_and_links(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here.parent))
    assert spell_dataset("~/shared/photos", None) == "../shared/photos"
    (here / "link").symlink_to(here.parent / "shared" / "photos")
    assert spell_dataset("./link/", None) == "./link"
    assert spell_dataset("./link/../photos/", None) == "./link/../photos", "which is not ./photos"
    (here.parent / "logical").symlink_to(here)
    monkeypatch.setenv("PWD", str(here.parent / "logical"))  # as shells set it
    assert spell_dataset(f"{here.parent}/logical/tex", None) == "./tex"


def test_committed_runs_keep_their_data_and_thus_their_ids() -> None:
    records = [json.loads(file.read_text()) for file in RESULTS.glob("*/runs/*/record.json")]
    assert any(record["config"]["data"]["dataset"].startswith("../") for record in records)
    for record in records:
        assert parse_config(record["config"]).data.dataset == record["config"]["data"]["dataset"]
