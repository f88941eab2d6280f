"""The other views of a comparison: faster learning along one schedule, and what the test sample leaves open."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from maskbench.analysis import across_datasets, epochs_to_baseline, sampling_uncertainty, table_formats
from maskbench.analysis.results import Results, read_results
from maskbench.analysis.tables import write_tables
from maskbench.record import RunRecord
from tests.helpers.records import record, write_records

CURVES = {
    "random": ((0.1, 0.2, 0.3, 0.31), (0.1, 0.3, 0.3, 0.27)),  # ends at 0.29
    "gmml": ((0.3, 0.4, 0.5, 0.5), (0.1, 0.2, 0.2, 0.28)),
    "blur": ((0.1, 0.3, 0.4, 0.2), (0.2, 0.31, 0.28, 0.4)),
    "noise": ((0.1, 0.4, 0.3, 0.2), (0.3, 0.1, 0.31, 0.4)),
}


def learning(name: str, seed: int, readings: tuple[float, ...], slower: float = 1.0) -> RunRecord:
    curve = [
        {"epoch": place, "images": 1e4 * place, "cost/train_s": 10.0 * slower * place, "online/knn/top1/mean": reading}
        for place, reading in enumerate(readings, 1)
    ]
    return record(name, seed, curve=curve)


def test_epochs_to_where_the_baseline_ends() -> None:
    """By hand. noise: epochs 2 and 3 of 4, twice the time. gmml: epoch 1, and never. blur: epoch 2, and single
    readings that do not hold."""
    records = [
        learning(name, seed, readings, 2.0 if name == "noise" else 1.0)
        for name, runs in CURVES.items()
        for seed, readings in enumerate(runs)
    ]
    (section,) = epochs_to_baseline.make_sections(Results(Path(), [*records, record("random-init")], []))
    assert section.target == pytest.approx(0.29) and section.false_sooner is None, "two seeds: no rate"
    rows = {row.label: row for row in section.rows}
    assert {name: row.reached for name, row in rows.items()} == {"random": 2, "gmml": 1, "blur": 1, "noise": 2}
    epochs = {name: row.amounts["epochs"] for name, row in rows.items()}
    assert epochs["noise"].median == 2.5 and (epochs["noise"].low, epochs["noise"].high) == (2, 3)
    assert rows["noise"].amounts["images"].share == pytest.approx(2.5 / 4, abs=1e-6)
    assert rows["noise"].amounts["seconds"].share == pytest.approx(5 / 4, abs=1e-6)
    assert rows["noise"].amounts["tflops"].median == pytest.approx(0.2 * 2.5e4 / 1000)
    assert (epochs["gmml"].median, epochs["gmml"].low, epochs["gmml"].high) == (None, 1, None)
    text = table_formats.as_markdown([section])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "noise" in line]
    assert cells[0] == ["noise", "2 of 2", "2 [2, 3]", "125 %", "62 %"]
    assert "two readings in a row of 29.0 % or more" in text and "still high" in text


def test_the_rate_of_false_alarms_is_printed() -> None:
    """On a plateau, where every reading is the target and noise, the baseline itself looks sooner more often than not;
    where it still rises at its end, hardly ever."""
    generator = np.random.default_rng(0)
    plateau = 0.3 + generator.normal(0, 0.01, (5, 20))
    rising = np.linspace(0.1, 0.3, 20) + generator.normal(0, 0.001, (5, 20))
    rates = {}
    for name, curves in (("plateau", plateau), ("rising", rising)):
        records = [learning("random", seed, tuple(curve)) for seed, curve in enumerate(curves)]
        (section,) = epochs_to_baseline.make_sections(Results(Path(), [*records, learning("gmml", 0, (0.1,))], []))
        assert section.false_sooner is not None
        rates[name] = section.false_sooner
        assert f"in {100 * section.false_sooner:.0f} % of cases" in " ".join(section.notes)
    assert rates["plateau"] > 0.5 and rates["rising"] < 0.05


def test_without_the_baseline_or_another_there_is_nothing_to_say() -> None:
    gmml = learning("gmml", 0, (0.1,))
    assert epochs_to_baseline.make_sections(Results(Path(), [gmml], [])) == []
    assert epochs_to_baseline.make_sections(Results(Path(), [gmml, record("random-init")], [])) == []


def keep(folder: Path, run: RunRecord, predicted: np.ndarray, labels: np.ndarray) -> None:
    np.savez_compressed(
        folder / "runs" / run.run_id / "predictions.npz", **{"linear/mean": predicted, "labels": labels}
    )


def test_the_test_sample_from_stored_predictions(tmp_path: Path) -> None:
    """Against McNemar's test and Wald's interval, written out; seed by seed."""
    generator = np.random.default_rng(1)
    labels = generator.integers(10, size=500)
    data = {**record().dataset, "sizes": {"train": 10_000, "validation": 1_000, "test": 500}}
    runs = [record(name, seed, dataset=data) for name in ("random", "gmml", "random-init") for seed in (0, 1)]
    write_records(tmp_path, *runs)
    right = {}
    for run, accuracy in zip(runs, (0.5, 0.5, 0.65, 0.5, 0.3, 0.3), strict=True):
        hit = generator.random(500) < accuracy
        right[run.objective["name"] + run.strategy["name"], run.seed] = hit
        keep(tmp_path, run, np.where(hit, labels, (labels + 1) % 10), labels)
    (section,) = sampling_uncertainty.make_sections(read_results(tmp_path))
    (row,) = section.rows
    halves, ps, means = [], [], []
    for seed in (0, 1):
        ours, theirs = right["maegmml", seed], right["maerandom", seed]
        b, c = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
        means.append((b - c) / 500)
        halves.append(1.959964 * ((b + c) / 500 - means[-1] ** 2) ** 0.5 / 500**0.5)
        ps.append(min(1.0, 2 * scipy.stats.binom.cdf(min(b, c), b + c, 0.5)))
    assert row.label == "gmml" and row.n == 2 and row.images == 500
    assert row.mean == pytest.approx(np.mean(means), abs=1e-6)
    assert row.half_width == pytest.approx(np.mean(halves), abs=1e-6)
    corrected = (2 * min(ps), max(2 * min(ps), max(ps)))
    assert row.significant == sum(p < 0.05 for p in corrected)
    text = table_formats.as_markdown([section])
    assert "says nothing about other seeds" in text and f"{row.significant} of 2" in text


def test_tables_that_say_nothing_any_more_are_removed(tmp_path: Path) -> None:
    write_records(tmp_path, learning("random", 0, (0.1,)), learning("gmml", 0, (0.2,)))
    write_tables(read_results(tmp_path), tmp_path / "tables")
    assert (tmp_path / "tables" / "epochs-to-baseline.tex").exists()
    (alone,) = (tmp_path / "runs").glob("gmml-*")
    shutil.rmtree(alone)
    write_tables(read_results(tmp_path), tmp_path / "tables")
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"comparison"}


def test_across_data_sets_that_share_all_else() -> None:
    """The middle half and the chance to win, counted by hand; blur was not run everywhere."""
    other = {**record().dataset, "name": "others", "fingerprint": "others-1"}
    runs = {
        "random": ((0.1, 0.2), (0.5, 0.9)),
        "gmml": ((0.15, 0.3), (0.4, 0.6)),
        "blur": ((0.9, 0.9), ()),
        "random-init": ((0.1, 0.1), (0.1, 0.1)),
    }
    records = [
        record(name, seed, accuracy, dataset=dataset)
        for name, both in runs.items()
        for accuracies, dataset in zip(both, (record().dataset, other), strict=True)
        for seed, accuracy in enumerate(accuracies)
    ]
    longer = record("gmml", 0, 1.0, settings={"train.epochs": 50})
    (section,) = across_datasets.make_sections(Results(Path(), [*records, longer], []))
    rows = {row.label: row for row in section.rows}
    assert set(rows) == {"random", "gmml", "random-init"}
    assert rows["random"].iqm.value == pytest.approx((0.2 + 0.5) / 2)
    assert rows["gmml"].iqm.value == pytest.approx((0.3 + 0.4) / 2)
    improvement = rows["gmml"].improvement
    assert improvement is not None and improvement.value == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert rows["random"].improvement is None and rows["random-init"].improvement is None
    assert "P(beats random)" in table_formats.as_markdown([section])
    assert rows["random"].iqm.low is None, "two runs on each are too few to draw from"
    assert across_datasets.make_sections(Results(Path(), records[:2], [])) == []
    assert across_datasets.make_sections(Results(Path(), [record(status="failed", metrics={})], [])) == []


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
@pytest.mark.parametrize("folder", sorted(Path("results").glob("*/tables")), ids=lambda path: path.parent.name)
def test_latex_compiles(folder: Path, tmp_path: Path) -> None:
    body = "\n".join(path.read_text() for path in sorted(folder.glob("*.tex")))
    start = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "page.tex").write_text(f"{start}{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout, "nothing runs off the page"
