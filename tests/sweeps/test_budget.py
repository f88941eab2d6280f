"""Budgets: how many epochs they allow, and that what was decided stays."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from maskbench.analysis.results import group_of
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.config.settings import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.record import read_record
from maskbench.sweeps.budget import fit_epochs_to_budgets
from tests.helpers.command_line import maskbench
from tests.helpers.records import record

TINY = {
    "data.limit": 200,
    "data.img_size": 16,
    "train.batch_size": 64,
    "train.epochs": 10,
    "train.warmup_epochs": 2,
    "model.kwargs": {"embed_dim": 24, "depth": 2, "num_heads": 2},
}


def config(**changes: object) -> RunConfig:
    return parse_config(merge(load_preset("quick"), {**TINY, **changes}))


def here(function: Callable[[RunConfig], float], given: RunConfig) -> float:
    return function(given)


def of(amount: float) -> Callable[[Callable[[RunConfig], float], RunConfig], float]:
    """A machine on which every epoch takes `amount`."""
    return lambda function, given: amount


@pytest.mark.parametrize(("budget", "epochs"), [(7.0, 2), (8.9, 3), (10.4, 3), (1.6, 1)])
def test_the_nearest_number_of_epochs_with_the_same_share_of_warm_up(budget: float, epochs: int) -> None:
    given = config(**{"train.budget": {"seconds": budget}})
    (found,) = fit_epochs_to_budgets([given], of(3.0), {})
    assert found.train.epochs == epochs
    assert found.train.warmup_epochs == pytest.approx(epochs * 2 / 10)
    unchanged = {"train": {"epochs", "warmup_epochs"}}
    assert found.model_dump(exclude=unchanged) == given.model_dump(exclude=unchanged)


def test_a_budget_of_half_an_epoch_is_refused() -> None:
    given = config(**{"train.budget": {"seconds": 1.4}})
    with pytest.raises(UsageError, match=r"random: a budget of 1\.4 seconds is less than half an epoch, which takes 3"):
        fit_epochs_to_budgets([given], of(3.0), {})


def test_flops_are_those_of_the_record(tmp_path: Path) -> None:
    """Computation counted beforehand is what the record counts afterwards, within the half epoch of rounding."""
    done = maskbench(
        "run", "--set", "train.budget.gflops=40", "--strategy", "random,gmml", "--limit", "200", "--img-size", "16",
        "--batch-size", "64", "--probes", "knn", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    records = [read_record(path) for path in tmp_path.glob("results/quick/runs/*/record.json")]
    trained = {each.strategy["name"]: each for each in records if each.curve}
    assert trained["random"].config["train"]["epochs"] > trained["gmml"].config["train"]["epochs"] > 1
    for each in trained.values():
        images = 200 // 64 * 64  # whole batches
        epoch = each.metrics["cost/gflops_per_image"] * images
        assert abs(each.config["train"]["epochs"] * epoch - 40) <= epoch / 2
    assert len({group_of(each) for each in records}) == 1, "the control stands in the same table"
    assert "40 GFLOPs of training, batch 64" in done.out and "| epochs" in " ".join(done.out.split())


def test_all_seeds_get_the_same_and_what_was_begun_keeps_it(tmp_path: Path) -> None:
    seconds = iter([2.0, 5.0, 9.0])
    given = [
        config(**{"train.budget": {"seconds": 30}, "seed": seed, "strategy": name, "output": str(tmp_path)})
        for seed in (0, 1)
        for name in ("random", "gmml")
    ]
    found = fit_epochs_to_budgets(given, lambda function, config: next(seconds), {})
    assert [each.train.epochs for each in found] == [15, 6, 15, 6]
    folder = tmp_path / "runs" / "random-00000000-s0"
    folder.mkdir(parents=True)
    from maskbench.runs.plan import make_plan

    (folder / "config.yaml").write_text(yaml.safe_dump(make_plan(found[0]).config.model_dump(mode="json")))
    again = fit_epochs_to_budgets(given, lambda function, config: next(seconds), {})
    assert [each.train.epochs for each in again] == [15, 3, 15, 3], "only gmml is measured anew"
    other = [each.model_copy(update={"seed": 7}) for each in fit_epochs_to_budgets([given[0]], of(1.0), {})]
    assert other[0].train.epochs == 15


def test_epochs_take_the_place_of_a_budget() -> None:
    settings = merge(load_preset("quick"), {"train.budget": {"seconds": 30}})
    assert parse_config(merge(settings, {"train.epochs": 4})).train.budget is None
    assert parse_config(settings).train.budget == {"seconds": 30}


@pytest.mark.parametrize("budget", ["{hours: 3}", "{seconds: 3, gflops: 4}", "{seconds: -1}"])
def test_budgets_that_make_no_sense_are_one_line(budget: str, tmp_path: Path) -> None:
    done = maskbench("run", "--set", f"train.budget={budget}", cwd=tmp_path)
    assert done.code == 2 and "train.budget" in done.err and len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_what_cannot_be_measured_is_one_line_and_old_folders_do_not_matter(tmp_path: Path) -> None:
    given = config(**{"train.budget": {"seconds": 30}, "output": str(tmp_path)})

    def broken(function: Callable[[RunConfig], float], config: RunConfig) -> float:
        raise RuntimeError("no memory")

    with pytest.raises(Failure, match="random: a step of it cannot be measured: no memory"):
        fit_epochs_to_budgets([given], broken, {})
    for number, text in enumerate(["strategy: my-plugin", "train: {gone: 3}"]):
        (tmp_path / "runs" / str(number)).mkdir(parents=True)
        (tmp_path / "runs" / str(number) / "config.yaml").write_text(text)
    assert fit_epochs_to_budgets([given], of(3.0), {})[0].train.epochs == 10


def test_runs_without_training_have_nothing_to_fit() -> None:
    given = config(**{"train.budget": {"seconds": 30}, "strategy": "none", "objective": "random-init"})
    assert fit_epochs_to_budgets([given], of(3.0), {}) == [given]


def test_another_budget_is_another_table() -> None:
    one, two = (record("random", settings={"train.budget": {"seconds": amount}}) for amount in (30, 60))
    assert group_of(one) != group_of(two)
