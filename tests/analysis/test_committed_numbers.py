"""The numbers of the committed tables, computed again from the records by pandas and scipy alone.

None of maskbench's code is used here: the records are JSON, the tables CSV.
"""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(path.parents[1] for path in RESULTS.glob("*/tables/comparison.csv"))
CONTROLS = ("random-init", "supervised")
METRIC = "linear/top1/mean"
MEANS = ("cost/peak_memory_mib", "cost/images_per_s", "cost/mask_share", "cost/gflops_per_image")


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: inner for name in value for key, inner in flatten(value[name], f"{path}.{name}" if path else name).items()
    }


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/record.json"))]


def runs_of(group: str, label: str, folder: Path) -> list[dict[str, Any]]:
    """The records of a row: those of its group with its name, and the settings in brackets after it."""
    name, _, rest = label.removesuffix(")").partition(" (")
    wanted = dict(part.split("=", 1) for part in rest.split(", ")) if rest else {}
    found = []
    for record in records(folder):
        objective, train = record["objective"]["name"], record["config"]["train"]
        own = objective if objective in CONTROLS else record["strategy"]["name"]
        length = f"| {train['epochs']} epochs, batch {train['batch_size']} |"
        model = "".join(f", {key} {value}" for key, value in record["config"]["model"]["kwargs"].items())
        settings = {path.rpartition(".")[2]: value for path, value in flatten(record["config"]).items()}
        settings["objective"] = objective
        if (
            length in group
            and f"{model} |" in group
            and own == name
            and all(str(settings.get(key)) == value for key, value in wanted.items())
        ):
            found.append(record)
    return found


def by_seed(runs: list[dict[str, Any]]) -> dict[int, float]:
    return {run["seed"]: run["metrics"][METRIC] for run in runs if run["status"] == "complete"}


def t_interval(values: list[float]) -> tuple[float, float]:
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return np.mean(values) - half, np.mean(values) + half


def corrected_test(ours: dict[int, float], theirs: dict[int, float], count: int) -> tuple[float, float, float]:
    """Interval and p value, corrected for `count` comparisons."""
    if ours.keys() == theirs.keys() and len(ours) >= 10:
        test = stats.ttest_rel([ours[seed] for seed in sorted(ours)], [theirs[seed] for seed in sorted(ours)])
    else:
        test = stats.ttest_ind([*ours.values()], [*theirs.values()], equal_var=False)
    interval = test.confidence_interval(1 - 0.05 / count)
    return interval.low, interval.high, min(1.0, test.pvalue * count)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_means_and_intervals(folder: Path) -> None:
    table = pd.read_csv(folder / "tables" / "comparison.csv")
    assert table["n"].sum() == len(records(folder)), "every run is in one row"
    for row in table.to_dict("records"):
        runs = runs_of(row["group"], row["strategy"], folder)
        assert row["n"] == len(runs)
        for name in (f"{probe}/top1/{pooling}" for probe in ("knn", "linear") for pooling in ("cls", "mean")):
            values = [run["metrics"][name] for run in runs if name in run["metrics"]]
            if values:
                assert row[name] == pytest.approx(np.mean(values), rel=1e-6)
            if len(values) > 1:
                assert row[f"{name}/sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-6)
                assert (row[f"{name}/low"], row[f"{name}/high"]) == pytest.approx(t_interval(values), rel=1e-6)
        for name in MEANS:
            values = [run["metrics"][name] for run in runs if name in run["metrics"]]
            if values:
                assert row[name] == pytest.approx(np.mean(values), rel=1e-6)
        ratios = [
            run["diagnostics"]["realised_ratio_mean"] for run in runs if "realised_ratio_mean" in run["diagnostics"]
        ]
        if ratios:
            assert row["realised_ratio_mean"] == pytest.approx(np.mean(ratios), rel=1e-6)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_differences(folder: Path) -> None:
    for group, table in pd.read_csv(folder / "tables" / "comparison.csv").groupby("group"):
        check_differences(str(group), table.set_index("strategy", drop=False), folder)


def check_differences(group: str, table: pd.DataFrame, folder: Path) -> None:
    scores = {label: by_seed(runs_of(group, label, folder)) for label in table["strategy"]}
    controls = {label for label in scores if label.split(" ")[0] in CONTROLS}
    strategies = [label for label in scores if label not in controls]
    enough = [label for label in strategies
              if len(scores[label]) > 3 or (len(scores[label]) == 3 and len(strategies) <= 3)]  # fmt: skip
    families = {
        "difference": ("random", [label for label in enough if label != "random"] if "random" in enough else []),
        "from_untrained": ("random-init", enough),
    }
    for (column, (reference, family)), label in itertools.product(families.items(), strategies):
        if reference not in scores or label == reference:
            continue
        row, ours, theirs = table.loc[label], scores[label], scores[reference]
        difference = np.mean([*ours.values()]) - np.mean([*theirs.values()])
        assert row[column] == pytest.approx(difference, rel=1e-5, abs=1e-9)
        if label in family:
            low, high, p = corrected_test(ours, theirs, len(family))
            found = [row[f"{column}/{name}"] for name in ("low", "high", "p")]
            assert found == pytest.approx([low, high, p], rel=1e-5)
        elif f"{column}/p" in table:
            assert math.isnan(row[f"{column}/p"])


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if (folder / "tables" / "probes.csv").exists()],
                         ids=lambda folder: folder.name)  # fmt: skip
def test_probes(folder: Path) -> None:
    table = pd.read_csv(folder / "tables" / "probes.csv")
    labels = [name for name in table if name not in ("group", "probe") and "/" not in name]
    for row, label in itertools.product(table.to_dict("records"), labels):
        values = [value for run in runs_of(row["group"], label, folder) for name, value in run["metrics"].items()
                  if name.replace("/", " ") == row["probe"]]  # fmt: skip
        assert (not values and math.isnan(row[label])) or row[label] == pytest.approx(np.mean(values), rel=1e-6)


def with_table(name: str) -> Any:
    """The folders that have such a table."""
    found = [folder for folder in FOLDERS if (folder / "tables" / f"{name}.csv").exists()]
    return pytest.mark.parametrize("folder", found, ids=lambda folder: folder.name)


@with_table("test-sample")
def test_what_the_test_sample_leaves_open(folder: Path) -> None:
    """McNemar's exact test for every seed of every row, Holm-corrected over all of them at once."""
    for group, table in pd.read_csv(folder / "tables" / "test-sample.csv").groupby("group"):
        correct = {label: correct_images(str(group), label, folder) for label in ("random", *table["strategy"])}
        pairs = [(label, seed) for label in table["strategy"] for seed in correct[label] if seed in correct["random"]]
        p_values = {}
        for label, seed in pairs:
            ours, theirs = correct[label][seed], correct["random"][seed]
            wins, losses = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
            p_values[label, seed] = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        rejected = set()
        for rank, pair in enumerate(sorted(p_values, key=lambda pair: p_values[pair])):
            if p_values[pair] * (len(pairs) - rank) >= 0.05:
                break
            rejected.add(pair)
        for row in table.to_dict("records"):
            own = [seed for label, seed in pairs if label == row["strategy"]]
            gaps = [correct[row["strategy"]][seed].astype(int) - correct["random"][seed] for seed in own]
            halves = [stats.norm.ppf(0.975) * gap.std() / math.sqrt(len(gap)) for gap in gaps]
            assert (row["n"], row["images"]) == (len(own), len(gaps[0]))
            assert row["difference"] == pytest.approx(np.mean([gap.mean() for gap in gaps]), rel=1e-5, abs=1e-9)
            assert row["difference/half"] == pytest.approx(np.mean(halves), rel=1e-5)
            assert row["apart"] == sum(label == row["strategy"] for label, _ in rejected)


def correct_images(group: str, label: str, folder: Path) -> dict[int, np.ndarray]:
    """Which test images each seed classifies correctly, where predictions are kept."""
    found = {}
    for run in runs_of(group, label, folder):
        path = folder / "runs" / run["run_id"] / "predictions.npz"
        if path.exists():
            with np.load(path) as stored:
                found[run["seed"]] = stored["linear/mean"] == stored["labels"]
    return found


@with_table("epochs-to-baseline")
def test_epochs_to_the_baseline(folder: Path) -> None:
    reading = "online/knn/top1/mean"
    for group, table in pd.read_csv(folder / "tables" / "epochs-to-baseline.csv").groupby("group"):
        curves = {label: [[row for row in run["curve"] if reading in row] for run in runs_of(str(group), label, folder)]
                  for label in table["strategy"]}  # fmt: skip
        target = np.mean([curve[-1][reading] for curve in curves["random"]])
        for row in table.to_dict("records"):
            reached = []
            for curve in curves[row["strategy"]]:
                twice = [one["epoch"] for one, two in itertools.pairwise(curve)
                         if one[reading] >= target and two[reading] >= target]  # fmt: skip
                reached.append(min(twice, default=math.inf))
            assert (row["n"], row["reached"]) == (len(reached), sum(map(math.isfinite, reached)))
            for column, value in (("epochs", np.median(reached)), ("epochs/low", min(reached)),
                                  ("epochs/high", max(reached))):  # fmt: skip
                known = row.get(column, math.nan)
                assert known == value if math.isfinite(value) else math.isnan(known)


@with_table("tuning")
def test_tuning(folder: Path) -> None:
    """Every combination's mean on validation, and the one of the highest mean is chosen."""
    trials = [json.loads(path.read_text()) for path in sorted(folder.glob("trials/runs/*/record.json"))]
    table = pd.read_csv(folder / "tables" / "tuning.csv")
    assert table["n"].sum() == len(trials)
    for name, rows in table.groupby("strategy"):
        for row in rows.to_dict("records"):
            own = [
                trial
                for trial in trials
                if trial["config"]["tuning"]["row"] == name
                and row["settings"]
                == ", ".join(
                    f"{path.rpartition('.')[2]}={value}"
                    for path, value in trial["config"]["tuning"]["settings"].items()
                )
            ]
            assert row["validation"] == pytest.approx(
                np.mean([trial["metrics"][f"validation/{METRIC}"] for trial in own]), rel=1e-6
            )
        chosen = {
            run["config"]["tuning"]["row"]: ", ".join(
                f"{path.rpartition('.')[2]}={value}" for path, value in run["config"]["tuning"]["settings"].items()
            )
            for run in records(folder)
            if run["config"].get("tuning")
        }
        if name in chosen:
            assert chosen[name] == rows.loc[rows["validation"].idxmax(), "settings"]


@with_table("claims")
def test_claims(folder: Path) -> None:
    """Differences, intervals and verdicts of the claims that were tested; the others have no number."""
    for group, table in pd.read_csv(folder / "tables" / "claims.csv").groupby("group"):
        tested = table[~table["verdict"].str.startswith("not testable here, because")]
        for row in table.to_dict("records"):
            if row["claim"] not in set(tested["claim"]):
                assert math.isnan(row.get("difference", math.nan))
                continue
            runs = [runs_of(str(group), row[side], folder) for side in ("better", "than")]
            assert all(run["status"] == "complete" for side in runs for run in side)
            ours, theirs = (
                epochs_to_accuracy(*runs)
                if row["metric"] == "epochs-to-accuracy"
                else ({run["seed"]: run["metrics"][row["metric"]] for run in side} for side in runs)
            )
            low, high, p = corrected_test(ours, theirs, len(tested))
            found = [row[f"difference/{name}"] for name in ("low", "high", "p")]
            assert found == pytest.approx([low, high, p], rel=1e-5)
            sign = -1 if row["metric"] == "epochs-to-accuracy" else 1
            words = "holds here" if sign * low > 0 and sign * high > 0 else "reversed here"
            assert row["verdict"].startswith(words if low * high > 0 else "no difference larger than ")


def epochs_to_accuracy(*sides: list[dict[str, Any]]) -> list[dict[int, float]]:
    """The first of two readings in a row that are at least the lower of both means at the end; else the last epoch."""
    reading = "online/knn/top1/mean"
    curves = [{run["seed"]: [row for row in run["curve"] if reading in row] for run in side} for side in sides]
    target = min(np.mean([curve[-1][reading] for curve in side.values()]) for side in curves)
    return [{seed: next((one["epoch"] for one, two in itertools.pairwise(curve)
                         if one[reading] >= target and two[reading] >= target), curve[-1]["epoch"])
             for seed, curve in side.items()} for side in curves]  # fmt: skip
