"""Tuning: the same number of trials for every strategy, chosen on validation, with test never looked at."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from maskbench.analysis import tuning
from maskbench.config.suite import Suite, expand_suite, expand_trials, read_suite
from maskbench.errors import UsageError
from maskbench.record import RunRecord, read_record
from maskbench.runs.execution import Execution
from tests.helpers.command_line import SMALL, maskbench
from tests.helpers.records import record


def trial(row: str, seed: int, accuracy: float | None, seeds: tuple[int, ...] = (1000,), **settings: Any) -> RunRecord:
    about = {"row": row, "settings": settings, "trials": 2, "seeds": list(seeds), "trial": True}
    metrics = {} if accuracy is None else {"validation/linear/top1/mean": accuracy}
    status = "diverged" if accuracy is None else "complete"
    config = {**record().config, "tuning": about}
    return record(row, seed, config=config, metrics={**metrics, "cost/wall_s": 10.0}, status=status)


def test_every_strategy_has_the_same_trials_with_seeds_of_their_own() -> None:
    suite = Suite.model_validate(
        {"strategies": ["random", "gmml:fill=zeros"], "seeds": "0-1", "tuning_seeds": "100-101",
         "tune": {"lr": ["1e-3", 2e-3], "ratio": [0.5, 0.75, 0.9]}}
    )  # fmt: skip
    found = expand_trials("mine", suite, {})
    assert len(found) == 2 * 2 * 6
    for name in ("random", "gmml"):
        own = [config for config in found if config.strategy.name == name]
        assert {(config.seed, config.train.lr, config.ratio) for config in own} == {
            (seed, lr, ratio) for seed in (100, 101) for lr in (1e-3, 2e-3) for ratio in (0.5, 0.75, 0.9)
        }
        assert {config.regime for config in own} == {"matched"}
    assert {config.output for config in found} == {"results/mine/trials"}
    chosen = {"random": {"train.lr": 2e-3, "ratio": 0.5}, "gmml:fill=zeros": {"train.lr": 1e-3, "ratio": 0.9}}
    runs = [config for config in expand_suite("mine", suite, {}, chosen.__getitem__) if config.strategy.name != "none"]
    assert [(config.strategy.name, config.train.lr, config.ratio) for config in runs] == [
        ("random", 2e-3, 0.5), ("gmml", 1e-3, 0.9)] * 2  # fmt: skip
    assert all(config.tuning is not None and not config.tuning.trial for config in runs)


def test_the_best_on_validation_is_chosen() -> None:
    """Means over seeds by hand: 0.30, 0.40, 0.40 (a tie, to the smaller rate), and one that did not finish."""
    scores = {1e-3: (0.2, 0.4), 2e-3: (0.5, 0.3), 3e-3: (0.3, 0.5), 4e-3: (0.9, None)}
    found = [
        trial("random", 1000 + place, score, (1000, 1001), **{"train.lr": lr})
        for lr, both in reversed(scores.items())
        for place, score in enumerate(both)
    ]
    assert tuning.best_settings(found, "random") == {"train.lr": 2e-3}
    assert tuning.best_settings(found, "gmml") is None
    more = trial("random", 1000, 0.6, (1000,), **{"train.lr": 5e-3})
    assert tuning.best_settings([*found, more], "random") == {"train.lr": 2e-3}, "one seed does not win over two"
    assert tuning.best_settings([trial("random", 1000, None, lr=1)], "random") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": {"epochs": [1, 2]}}, "tune: epochs is what makes runs comparable"),
        ({"tune": {"train.batch_size": [1, 2]}}, "tune: batch_size is what makes"),
        ({"tune": {"ratio": [0.5]}, "ratios": [0.5]}, "either tunes the ratio or crosses ratios"),
        ({"tune": {"lr": [1e-3]}, "seeds": "0-3", "tuning_seeds": 3}, "seed 3 is among the seeds and the tuning_seeds"),
        ({"tune": {"lr": []}}, "tune.lr"),
        ({"tune": {"warmup_epochs": [1]}, "budget": {"gflops": 10}}, "under a budget the warm-up keeps its share"),
        ({"tune": {"learning_rate": [1e-3]}}, "unknown setting 'learning_rate'"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"strategies": ["random"], **changes}))
    with pytest.raises(UsageError, match=message):
        expand_trials(*read_suite(str(tmp_path / "mine.yaml")), {})


def test_more_combinations_leave_the_trials_that_there_are_as_they_are() -> None:
    few, more = (
        expand_trials(
            "mine", Suite.model_validate({"strategies": ["random"], "tune": {"lr": rates}, "tuning_seeds": seeds}), {}
        )
        for rates, seeds in (([1e-3, 2e-3], 100), ([1e-3, 2e-3, 4e-3], "100-101"))
    )
    ids = [{config.identity(1) for config in found if config.seed == 100} for found in (few, more)]
    assert len(ids[0]) == 2 and ids[0] < ids[1] and len(ids[1]) == 3
    untuned = expand_suite("mine", Suite.model_validate({"strategies": ["random"], "set": {"train.lr": 1e-3}}), {})[-1]
    assert untuned.identity(1) not in ids[0], "a trial is not the run itself"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    settings = {"strategies": ["random", "gmml"], "tune": {"lr": [1e-5, 1e-2]}, "seeds": "0-2", "controls": []}
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    done = maskbench("run", "--suite", "./mine.yaml", *SMALL, cwd=folder)
    assert done.code == 0, done.err
    assert "random, trials" in done.err and "10 runs for results/mine, 0 done" in done.err
    return folder / "results" / "mine"


def test_trials_say_nothing_of_test(tuned: Path) -> None:
    found = [read_record(path) for path in tuned.glob("trials/runs/*/record.json")]
    assert len(found) == 4
    for each in found:
        answers = {name for name in each.metrics if not name.startswith("cost/")}
        assert answers and all(name.startswith("validation/") for name in answers)
    assert not list(tuned.glob("trials/runs/*/predictions.npz"))


def test_runs_have_the_settings_that_validation_chose(tuned: Path) -> None:
    scores: dict[str, dict[float, float]] = {}
    for path in tuned.glob("trials/runs/*/record.json"):
        each = read_record(path)
        scores.setdefault(each.strategy["name"], {})[each.config["train"]["lr"]] = each.metrics[
            "validation/linear/top1/mean"
        ]
    for path in tuned.glob("runs/*/record.json"):
        each = read_record(path)
        own = scores[each.strategy["name"]]
        best = min(lr for lr, score in own.items() if score == max(own.values()))
        assert each.config["train"]["lr"] == best and each.config["tuning"]["trials"] == 2


def test_the_table_shows_what_was_chosen_and_what_it_took(tuned: Path) -> None:
    (section,) = json.loads((tuned / "tables" / "comparison.json").read_text())
    spent = [read_record(path).metrics["cost/wall_s"] for path in tuned.glob("trials/runs/random-*/record.json")]
    (row,) = [row for row in section["rows"] if row["label"] == "random"]
    assert row["cost/tuning_s"]["mean"] == pytest.approx(sum(spent), rel=1e-6) and row["trials"] == 2
    text = (tuned / "tables" / "comparison.md").read_text()
    assert "2 combinations tried for each strategy" in text and "not tuned for each" not in text
    trials = (tuned / "tables" / "tuning.md").read_text()
    assert trials.count("**lr=") == 2 and "test was not looked at" in trials


def test_a_second_command_repeats_nothing(tuned: Path) -> None:
    done = maskbench("run", "--suite", "./mine.yaml", *SMALL, cwd=tuned.parents[1])
    assert done.code == 0 and done.err.count("is done already") == 10


@pytest.mark.parametrize("own_split", [False, True])
def test_test_labels_decide_no_trial(own_split: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same trial with every test image and label replaced says the same."""
    from maskbench.runs import run as runs

    original, found = runs.load_data, []
    settings = {"strategies": ["random"], "tune": {"lr": [1e-3]}}
    (config,) = expand_trials(
        "mine", Suite.model_validate(settings), {"train.epochs": 1, "data.limit": 400, "probes": "linear"}
    )
    for spoiled in (False, True):

        def changed(planned: Any, spoiled: bool = spoiled) -> Any:
            planned, splits = original(planned)
            if own_split:
                splits = replace(splits, validation=splits.train.take(splits.validation))
            if spoiled:
                noise = torch.randint_like(splits.test.pixels, 256)
                labels = (splits.test.labels + 1) % len(splits.classes)
                splits = replace(splits, test=replace(splits.test, pixels=noise, labels=labels))
            return planned, splits

        monkeypatch.setattr(runs, "load_data", changed)
        run = runs.run(config.model_copy(update={"output": str(tmp_path / str(spoiled))}))
        found.append({name: value for name, value in run.metrics.items() if not name.startswith("cost/")})
    assert found[0] == found[1] and found[0].keys() == {f"validation/linear/top1/{one}" for one in ("cls", "mean")}


def test_what_a_probe_may_train_on_is_what_validation_is_not() -> None:
    from maskbench.data import load_dataset

    splits = load_dataset("shapes", (16, 16), 3, 300)
    choosing = splits.without_test()
    assert len(choosing.train) + len(choosing.test) == 300
    assert torch.equal(choosing.test.pixels, splits.train.pixels[splits.validation])
    assert torch.equal(choosing.train.pixels, splits.train.pixels[splits.fit])
    assert choosing.test is choosing.validation and Execution.run_probes.__doc__
