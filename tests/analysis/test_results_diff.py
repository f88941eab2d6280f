"""Two sets of results against each other."""

import json
from pathlib import Path

import pytest
import scipy.stats

from maskbench.analysis.results_diff import compare_results
from maskbench.errors import UsageError
from maskbench.record import RunRecord
from tests.helpers.command_line import maskbench
from tests.helpers.records import record, write_records

BEFORE = {"random": (0.50, 0.52, 0.57), "gmml": (0.40, 0.43, 0.47), "blur": (0.3, 0.31, 0.32)}


def runs(accuracies: dict[str, tuple[float, ...]]) -> list[RunRecord]:
    return [record(name, seed, value) for name, values in accuracies.items() for seed, value in enumerate(values)]


def test_what_changed_beyond_noise(tmp_path: Path) -> None:
    after = {"random": (0.50, 0.52, 0.57), "gmml": (0.45, 0.481, 0.52), "noise": (0.1, 0.2, 0.3)}
    folders = [write_records(tmp_path / name, *runs(values)) for name, values in (("a", BEFORE), ("b", after))]
    rows = {(row.strategy, row.metric): row for row in compare_results(*folders)}
    assert rows["random", "knn/top1/cls"].verdict == "the same to the last digit"
    gmml = rows["gmml", "linear/top1/mean"]
    expected = scipy.stats.ttest_rel(after["gmml"], BEFORE["gmml"])
    tests = sum(row.verdict.startswith(("changed", "not beyond")) for row in rows.values())
    interval = expected.confidence_interval(1 - 0.05 / tests)
    assert (gmml.low, gmml.high) == pytest.approx((interval.low, interval.high))
    assert tests == 4, "gmml in four metrics; random is the same"
    assert rows["blur", None].verdict == "only in the first"
    assert rows["noise", None].verdict == "only in the second"
    said = "changed" if expected.pvalue * 4 < 0.05 else "not beyond noise"
    assert gmml.verdict == f"{said} (p = {expected.pvalue * 4:.2g})"


def test_two_seeds_are_not_judged(tmp_path: Path) -> None:
    folders = [
        write_records(tmp_path / name, *runs({"gmml": values}))
        for name, values in (("a", (0.1, 0.2)), ("b", (0.8, 0.9)))
    ]
    assert {row.verdict for row in compare_results(*folders)} == {"differs; 2 seeds in common are too few to judge"}


def test_a_papers_table_against_ours(tmp_path: Path) -> None:
    ours = write_records(tmp_path / "ours", *runs(BEFORE))
    paper = tmp_path / "paper.csv"
    paper.write_text("strategy,linear/top1/mean\nrandom,54.0\ngmml,60.1\nattmask-high,50\n")
    done = maskbench("compare", str(paper), str(ours), "--json", cwd=tmp_path)
    verdicts = {row["strategy"]: row["verdict"] for row in json.loads(done.out)}
    assert verdicts == {
        "random": "within our interval",
        "gmml": "outside our interval",
        "attmask-high": "only in the paper",
    }
    text = maskbench("compare", str(paper), str(ours), cwd=tmp_path).out
    assert "| gmml" in text and "60.10" in text and "outside our interval" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "needs a column strategy"),
        ("strategy,knn/top1/cls\nx,good\n", "not numbers"),
        ("", "cannot read"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "paper.csv").write_text(content)
    write_records(tmp_path / "ours", *runs(BEFORE))
    done = maskbench("compare", "paper.csv", "ours", cwd=tmp_path)
    assert done.code == 2 and message in done.err and "Traceback" not in done.err


OTHER_DATA = {**record().dataset, "name": "photos", "fingerprint": "photos-1"}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (record(settings={"train.epochs": 99}),
         "differ in length of training (6 epochs, batch 128, against 99 epochs, batch 128)"),
        (record(dataset=OTHER_DATA), "differ in data (shapes (shapes-1), 10,000 images"),
        (record(protocols={"knn": 2}), "differ in probe protocols (probes knn v1, linear v1, against probes knn v2)"),
        (record(seed=7), "no seed is in both; the first has 0, the second has 7"),
        (record("gmml"), "no strategy is in both; the first has random, the second has gmml"),
        (record(status="failed", metrics={}), "no run of the second is complete"),
    ],
)  # fmt: skip
def test_what_two_folders_do_not_share_is_named(second: RunRecord, message: str, tmp_path: Path) -> None:
    folders = [write_records(tmp_path / "a", record("random")), write_records(tmp_path / "b", second)]
    with pytest.raises(UsageError, match="have nothing in common to compare") as refused:
        compare_results(*folders)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_of_several_groups_the_nearest_are_named(tmp_path: Path) -> None:
    nearest = record(run_id="random-x-s0", settings={"train.epochs": 9})
    ours = [record(dataset=OTHER_DATA, settings={"train.epochs": 99}), nearest]
    folders = [write_records(tmp_path / "a", record("random")), write_records(tmp_path / "b", *ours)]
    with pytest.raises(UsageError, match="they differ in length of training .6 epochs, batch 128, against 9 epochs"):
        compare_results(*folders)


def test_a_paper_about_other_strategies(tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_text("strategy,linear/top1/mean\nattmask-high,50\n")
    write_records(tmp_path / "ours", record("random"))
    with pytest.raises(UsageError, match="no strategy is in both; the first has attmask-high, the second has random"):
        compare_results(tmp_path / "paper.csv", tmp_path / "ours")
