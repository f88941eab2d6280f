"""Which strategies go with which objectives: refused before anything runs, with the reason and what would fit."""

import json
from pathlib import Path

import pytest

from maskbench.catalog import listing
from maskbench.errors import UsageError
from maskbench.objective import REGISTRY as OBJECTIVES
from maskbench.objectives.compatibility import incompatibility_reason
from maskbench.runs.run import run
from maskbench.strategy import REGISTRY as STRATEGIES
from tests.helpers.command_line import maskbench
from tests.helpers.tiny_run import tiny_config


@pytest.mark.parametrize(
    ("objective", "strategy", "reason"),
    [
        ("mae", "none", "nothing to recover"),
        ("ibot", "none", "nothing to recover"),
        ("supervised", "random", "is a control"),
        ("dino", "hard-patches", "needs the loss of each patch, which dino does not measure"),
        ("ibot", "hard-patches-predicted", "needs the loss of each patch, which ibot does not measure"),
    ],
)
def test_what_names_alone_tell(objective: str, strategy: str, reason: str) -> None:
    why = incompatibility_reason(STRATEGIES.create(strategy), OBJECTIVES.create(objective))
    assert why is not None and reason in why


def test_a_conditioned_objective_wants_a_noise_level(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="random has no noise level for mae:conditioned; choose one that has"):
        run(tiny_config(tmp_path, "random", objective__parameters__conditioned=True))
    record = run(tiny_config(tmp_path, "noise", objective__parameters__conditioned=True, probes="knn"))
    assert record.status == "complete"


@pytest.mark.parametrize("objective", ["dino", "barlow"])
def test_objectives_that_compare_crops_need_no_mask(objective: str) -> None:
    assert incompatibility_reason(STRATEGIES.create("none"), OBJECTIVES.create(objective)) is None


def test_the_matrix_names_what_fits_and_why_the_rest_does_not() -> None:
    entries, broken = listing.KINDS["pairs"]()
    assert not broken
    pairs = {entry["name"]: entry["pairs"] for entry in entries}
    assert pairs.keys() == set(STRATEGIES.names())
    assert all(reasons.keys() == set(OBJECTIVES.names()) for reasons in pairs.values())
    for name, reasons in pairs.items():
        if name != "none":
            assert reasons["mae"] is None, "the common setting takes every strategy"
    assert pairs["random"]["ibot"] is None and pairs["attmask-high"]["dino"] is None
    assert "hides no token" in pairs["gmml"]["ibot"]
    assert "compared" in pairs["zoom-in-mask"]["ibot"]
    table = listing.format_pairs(entries).splitlines()
    assert len(table) == 2 + len(pairs)


def test_pairs_from_the_command_line(tmp_path: Path) -> None:
    done = maskbench("list", "pairs", "--json", cwd=tmp_path)
    assert done.code == 0
    assert {entry["name"] for entry in json.loads(done.out)} == set(STRATEGIES.names())


@pytest.mark.parametrize(("objective", "strategy"), [("ibot", "blur"), ("ibot", "zoom-in-mask")])
def test_a_pair_that_makes_no_sense_leaves_nothing_behind(tmp_path: Path, objective: str, strategy: str) -> None:
    with pytest.raises(UsageError, match="choose --objective mae"):
        run(tiny_config(tmp_path / "out", strategy, objective={"name": objective, "parameters": {"prototypes": 16}}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("objective", "strategy"),
    [
        ("simmim", "random-coarse"),
        ("gmml:crops=2", "gmml"),
        ("ibot:prototypes=32:hidden=32:bottleneck=16:local_crops=1:local_size=0.5", "attmask-high"),
        ("dino:prototypes=32:hidden=32:bottleneck=16", "none"),
        ("barlow:width=32", "random"),
    ],
)
def test_every_objective_runs_end_to_end_and_repeats(tmp_path: Path, objective: str, strategy: str) -> None:
    records = [run(tiny_config(tmp_path / folder, strategy, objective=objective, probes="knn")) for folder in "ab"]
    numbers = [{name: value for name, value in r.metrics.items() if not name.startswith("cost/")} for r in records]
    assert numbers[0] == numbers[1] and records[0].status == "complete"
    curves = [[{k: v for k, v in row.items() if not k.startswith("cost/")} for row in r.curve] for r in records]
    assert curves[0] == curves[1]
    assert {"online/rank/cls", "online/rank/mean"} <= curves[0][-1].keys()
    if objective.startswith(("ibot", "dino")):
        assert 0 < curves[0][-1]["teacher/entropy"] <= 1 and 0 < curves[0][-1]["teacher/entropy-of-mean"] <= 1
    assert records[0].metrics["cost/images_per_s"] > 0 and records[0].metrics["cost/peak_memory_mib"] > 0
