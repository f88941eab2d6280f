"""Suites: what a grid holds, in which order, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from maskbench.config.suite import Suite, expand_suite, expand_trials, read_suite, suite_names
from maskbench.errors import UsageError
from maskbench.runs.plan import make_plan
from tests.helpers.command_line import SMALL, maskbench


def write(folder: Path, **settings: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.mark.parametrize("name", suite_names())
def test_suites_that_ship_make_sense(name: str) -> None:
    _, suite = read_suite(name)
    configs = expand_suite(name, suite, {})
    plans = [make_plan(config) for config in configs]
    assert len({each.run_id for each in plans}) == len(plans), "no run twice"
    assert {each.label for each in plans} >= {"random", "random-init", "supervised"}
    assert {config.output for config in configs} == {f"results/{name}"}


def test_everything_is_crossed_seeds_outermost_controls_once_a_place(tmp_path: Path) -> None:
    models = [{"name": "vit_tiny_patch16_224", "patch_size": size, "kwargs": {}} for size in (4, 8)]
    path = write(tmp_path, strategies=["random", "gmml:fill=zeros"], ratios=[0.5, 0.75], models=models, seeds="0-1")
    name, suite = read_suite(path)
    configs = expand_suite(name, suite, {"train.epochs": 3})
    assert name == "mine" and len(configs) == 2 * 2 * (2 + 2 * 2)
    assert [config.seed for config in configs] == [0] * 12 + [1] * 12
    assert [config.model.patch_size for config in configs[:12]] == [4] * 6 + [8] * 6
    assert [config.objective.name for config in configs[:6]] == ["random-init", "supervised", *["mae"] * 4]
    assert [config.ratio for config in configs[2:6]] == [0.5, 0.5, 0.75, 0.75]
    assert configs[3].strategy.parameters == {"fill": "zeros"}
    assert {config.train.epochs for config in configs} == {3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": ["random"]}, "unknown setting 'strategy'. Did you mean strategies"),
        ({}, "strategies is missing"),
        ({"strategies": ["random"], "rows": [{"strategy": "gmml"}]}, "either rows or strategies; drop one"),
        ({"rows": [{"objective": "gmml"}]}, "names no strategy; add strategy: NAME"),
        (
            {"strategies": ["random"], "claims": [{"says": "a", "source": "b", "better": "gmml"}]},
            "claims.0.than is missing",
        ),
        ({"strategies": ["random"], "ratios": [1.5]}, "ratios.0=1.5 should be less than 1"),
        ({"strategies": ["random"], "seeds": "3-1"}, "write 0,1,2 or 0-4"),
        ({"strategies": ["random"], "set": {"train.epoch": 3}}, "unknown setting 'train.epoch'"),
        ({"strategies": ["random"], "preset": "quik"}, "unknown preset 'quik'"),
        (
            {"strategies": ["random"], "models": [{"patchsize": 4}]},
            "unknown setting 'models.0.patchsize'. Did you mean models.0.patch_size",
        ),
        ({"strategies": [{"name": "random", "params": {}}]}, "unknown setting 'strategies.0.params'"),
        ({"strategies": ["random"], "budget": {"hours": 3}}, "budget"),
    ],
)
def test_mistakes_in_a_suite_are_one_line(tmp_path: Path, settings: dict, message: str) -> None:  # type: ignore[type-arg]
    done = maskbench("run", "--suite", write(tmp_path, **settings), cwd=tmp_path)
    assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"objectives": ["mae"]}, {"objective": "simmim"}, "lists values for objective, under objectives"),
        ({"ratios": [0.5]}, {"ratio": 0.9}, "lists values for ratio, under ratios"),
        ({"datasets": ["shapes"]}, {"data.dataset": "./x"}, "lists values for data.dataset, under datasets"),
        ({"tune": {"lr": [1e-3]}, "tuning_seeds": 9}, {"train.lr": 0.1}, "lists values for train.lr, under tune"),
    ],
)
def test_a_flag_does_not_vanish_under_a_list(changes: dict, flags: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=message):
        expand_suite("mine", Suite.model_validate({"strategies": ["random"], **changes}), flags)


def test_rows_are_what_each_row_sets(tmp_path: Path) -> None:
    """A strategy with an objective of its own, another at a ratio of its own; each with every seed, tuned by name."""
    rows = [{"strategy": "gmml:fill=zeros", "objective": "gmml"}, {"strategy": "random", "ratio": 0.5}]
    name, suite = read_suite(write(tmp_path, rows=rows, seeds="0-1", controls=[], tune={"lr": [1e-3]}))
    configs = expand_suite(name, suite, {})
    assert [(c.strategy.name, c.objective.name, c.regime, c.ratio, c.seed) for c in configs] == [
        ("gmml", "gmml", "paper", None, 0), ("random", "mae", "matched", 0.5, 0),
        ("gmml", "gmml", "paper", None, 1), ("random", "mae", "matched", 0.5, 1),
    ]  # fmt: skip
    named = [trial.tuning.row for trial in expand_trials(name, suite, {}) if trial.tuning is not None]
    assert named == ["gmml:fill=zeros, objective=gmml", "random, ratio=0.5"]
    with pytest.raises(UsageError, match="lists values for ratio, under rows"):
        expand_suite(name, suite, {"ratio": 0.9})


def test_claims_stand_beside_the_results_before_there_are_any(tmp_path: Path) -> None:
    claim = {"says": "It is better", "source": "arXiv 1", "better": "block", "than": "random"}
    path = write(tmp_path, strategies=["random", "block"], controls=["random-init"], seeds="0-2", claims=[claim])
    done = maskbench("run", "--suite", path, "--probes", "knn", "--primary", "knn/top1/mean", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.err
    assert yaml.safe_load((tmp_path / "results/mine/claims.yaml").read_text()) == {"claims": [claim]}
    table = (tmp_path / "results/mine/tables/claims.md").read_text()
    assert "| It is better | arXiv 1 | block − random | k-NN mean |" in " ".join(table.split())


def test_a_budget_of_epochs_keeps_the_share_of_warm_up() -> None:
    settings = {"strategies": ["random"], "preset": "cifar10-cpu", "budget": {"epochs": 6}}
    assert {
        (config.train.epochs, config.train.warmup_epochs)
        for config in expand_suite("mine", Suite.model_validate(settings), {})
    } == {(6, 1)}


def test_an_unknown_suite_is_suggested() -> None:
    with pytest.raises(UsageError, match="Did you mean cifar10"):
        read_suite("cifar")


def test_the_plan_says_what_is_done_and_what_is_left(tmp_path: Path) -> None:
    suite = ["run", "--suite", write(tmp_path, strategies=["random"]), "--probes", "knn", *SMALL]
    dry = maskbench(*suite, "--dry-run", cwd=tmp_path)
    assert dry.code == 0 and "3 runs for results/mine, 0 done" in dry.out and not (tmp_path / "results").exists()
    done = maskbench(*suite, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "3 runs for results/mine, 0 done" in done.err and "| random-init" in done.out and "| supervised" in done.out
    more = maskbench(*suite, "--dry-run", "--seeds", "0-1", cwd=tmp_path)
    assert "6 runs for results/mine, 3 done" in more.out
    again = maskbench(*suite, cwd=tmp_path)
    assert again.err.count("is done already") == 3


def test_a_suite_names_its_strategies(tmp_path: Path) -> None:
    done = maskbench("run", "--suite", "smoke", "--strategy", "gmml", cwd=tmp_path)
    assert done.code == 2 and "drop --strategy" in done.err
    assert "smoke" in maskbench("list", "suites", cwd=tmp_path).out


def test_the_file_shown_in_the_docs_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "suites.md").read_text().split("## The file\n")[1]
    shown = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "mine.yaml").write_text(shown)
    name, suite = read_suite(str(tmp_path / "mine.yaml"))
    assert set(yaml.safe_load(shown)) == set(Suite.model_fields) - {"rows"}, "every key is shown"
    assert len(expand_suite(name, suite, {})) == 5 * 2 * (2 + 2 * 2 * 3)
    assert len(expand_trials(name, suite, {})) == 2 * 2 * 2 * 2 * 2 * 3


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"patch_size": 8}, ("vit_tiny_patch16_224", 8, {"embed_dim": 96, "depth": 4, "num_heads": 3})),
        ({"name": "vit_tiny_patch16_224"}, ("vit_tiny_patch16_224", 4, {})),
        ({"name": "vit_small_patch16_224", "patch_size": 8}, ("vit_small_patch16_224", 8, {})),
        ({"kwargs": {"depth": 2}}, ("vit_tiny_patch16_224", 4, {"depth": 2})),
    ],
)
def test_what_a_suites_model_leaves_out_is_the_presets(model: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """As by flags: a name alone resets the arguments, and nothing else."""
    suite = Suite.model_validate({"strategies": ["random"], "models": [model]})
    for config in expand_suite("mine", suite, {}):
        assert (config.model.name, config.model.patch_size, config.model.kwargs) == expected
