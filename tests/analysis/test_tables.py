"""Records, tables and figures: what is stored, what is shown, and that it is the same every time."""

import csv
import io
import json
import statistics
import time
from pathlib import Path

import pytest
import scipy.stats

from maskbench.analysis import figures, table_formats
from maskbench.analysis.comparison import compare_strategies
from maskbench.analysis.figures.style import assign_looks
from maskbench.analysis.results import Results, load_results, read_records, read_results, to_frame
from maskbench.analysis.tables import write_tables
from maskbench.errors import UsageError
from maskbench.record import RunRecord, UnreadableRecord, read_record
from tests.helpers.records import record, write_records


def made_up_runs() -> list[RunRecord]:
    accuracies = {"random": (0.50, 0.52, 0.57), "gmml": (0.40, 0.43, 0.41), "random-init": (0.3, 0.31, 0.32)}
    accuracies["supervised"] = (0.6, 0.61, 0.65)
    return [record(name, seed, value) for name, values in accuracies.items() for seed, value in enumerate(values)]


def test_record_round_trip(tmp_path: Path) -> None:
    one = record()
    one.write(tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == one
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"], "no temporary file is left"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a readable record"),
        ("[1]", "no schema_version"),
        ('{"name": "other tool"}', "no schema_version"),
        ('{"schema_version": 2}', "schema 2 is newer than 1; upgrade maskbench"),
        ('{"schema_version": 1}', "run_id: Field required"),
    ],
)
def test_what_is_no_record_is_named_and_left_out(
    tmp_path: Path, content: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path, record())
    path = tmp_path / "runs" / "bad" / "record.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UnreadableRecord, match=reason):
        read_record(path)
    assert len(read_records(tmp_path)) == 1
    printed = capsys.readouterr().err
    assert str(path) in printed
    assert reason in printed


def test_records_of_before_later_fields_are_read(tmp_path: Path) -> None:
    old = json.loads(record().model_dump_json())
    for field in ("error", "warnings", "interruptions"):  # came after the first records of schema 1
        del old[field]
    (tmp_path / "record.json").write_text(json.dumps(old))
    assert read_record(tmp_path / "record.json") == record()


def test_load_results(tmp_path: Path) -> None:
    results = load_results(write_records(tmp_path, *made_up_runs()))
    assert len(results) == 12
    assert set(results["label"]) == {"random", "gmml", "random-init", "supervised"}
    assert results.loc[results["label"] == "gmml", "linear/top1/mean"].tolist() == [0.40, 0.43, 0.41]
    assert results["group"].nunique() == 1
    with pytest.raises(UsageError, match="no folder"):
        load_results(tmp_path / "none")
    assert load_results(tmp_path / "runs").empty


def test_rows_are_means_and_deviations_in_order() -> None:
    (section,) = compare_strategies(to_frame(made_up_runs()))
    assert [row.label for row in section.rows] == ["random-init", "random", "gmml", "supervised"]
    row = section.rows[1]
    values = (0.50, 0.52, 0.57)
    assert row.n == 3
    assert row.accuracies["linear/top1/mean"].mean == pytest.approx(statistics.mean(values), abs=1e-6)
    assert row.accuracies["linear/top1/mean"].sd == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert "cost/images_per_s" not in section.rows[0].costs, "a gap stays a gap"


def test_markdown() -> None:
    text = table_formats.as_markdown(compare_strategies(to_frame(made_up_runs())))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    head, _, floor, first, *_ = lines
    assert head[:3] == ["strategy", "n", "k-NN cls"]
    assert {"linear mean", "images/s", "mask share", "realised ratio"} <= set(head)
    assert (
        dict(zip(head, first, strict=True))["linear mean"] == "**53.0 ± 9.0**"
    )  # t(0.975, 2) = 4.303, times 3.606 / sqrt(3)
    assert dict(zip(head, floor, strict=True))["images/s"] == "–"
    assert "smoke test" in text
    assert "a cpu" in text
    assert table_formats.as_markdown([]) == "No records.\n"


def test_csv_and_json_hold_the_same_numbers() -> None:
    sections = compare_strategies(to_frame(made_up_runs()))
    rows = list(csv.DictReader(io.StringIO(table_formats.as_csv(sections))))
    stored = json.loads(table_formats.as_json(sections))[0]["rows"]
    assert [row["strategy"] for row in rows] == [row["label"] for row in stored]
    for row, other in zip(rows, stored, strict=True):
        assert float(row["linear/top1/mean"]) == other["linear/top1/mean"]["mean"]
    assert rows[0]["cost/images_per_s"] == ""


def test_what_cannot_be_compared_stands_apart() -> None:
    longer = record("random", settings={"train.epochs": 50})
    elsewhere = record("random", dataset={**record().dataset, "fingerprint": "shapes-2"})
    newer = record("random", protocols={"knn": 2, "linear": 1})
    other = record("random", settings={"model.kwargs": {"embed_dim": 64}})
    sections = compare_strategies(to_frame([record("random"), longer, elsewhere, newer, other]))
    assert [len(section.rows) for section in sections] == [1] * 5


def test_one_strategy_in_several_settings_is_told_apart() -> None:
    records = [record("random", seed, settings={"train.lr": lr}) for lr in (1e-3, 2e-3) for seed in (0, 1)]
    labels = set(to_frame([*records, record("gmml")])["label"])
    assert labels == {"random (lr=0.001)", "random (lr=0.002)", "gmml"}


def test_labels_name_the_objective_where_there_are_several() -> None:
    """Also of a strategy that was run with one of them alone; controls have none."""
    other = record("gmml", settings={"objective": "gmml"}, objective={"name": "gmml", "version": 1, "parameters": {}})
    labels = set(to_frame([record("random"), other, record("random-init"), record("supervised")])["label"])
    assert labels == {"random (objective=mae)", "gmml (objective=gmml)", "random-init", "supervised"}


def test_failed_runs_are_shown() -> None:
    failed = record("random", 1, status="diverged", error="the loss is nan", metrics={})
    text = table_formats.as_markdown(
        compare_strategies(to_frame([record("random"), failed, record("gmml", status="failed")]))
    )
    assert "random (1 diverged)" in text
    assert "gmml (1 failed, 1 missing)" in text


def test_tables_and_figures_are_the_same_bytes_again(tmp_path: Path) -> None:
    records = read_records(write_records(tmp_path, *made_up_runs()))
    contents = []
    for order in (records, records[::-1]):
        write_tables(Results(tmp_path, order, []), tmp_path / "tables")
        figures.write_figures(Results(tmp_path, order, []), tmp_path / "figures")
        files = sorted([*(tmp_path / "tables").iterdir(), *(tmp_path / "figures").iterdir()])
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        *(f"{name}.{kind}" for name in ("comparison", "epochs-to-baseline") for kind in table_formats.FORMATS),
        "matplotlib-version.txt",
        *(f"{name}.{kind}" for kind in ("png", "svg") for name in (
            "accuracy-against-cost", "differences", "learning-curves", "learning-curves-time",
            "learning-curves-flops")),
    }  # fmt: skip


def test_another_matplotlib_warns(tmp_path: Path) -> None:
    (tmp_path / "matplotlib-version.txt").write_text("1.0\n")
    with pytest.warns(UserWarning, match=r"made by matplotlib 1\.0"):
        figures.write_figures(Results(tmp_path, made_up_runs(), []), tmp_path)


def test_a_label_keeps_its_look_and_no_two_share_one() -> None:
    few, many = assign_looks(["random", "gmml"]), assign_looks([f"s{n}" for n in range(40)])
    assert few["random"] == assign_looks(["random"])["random"]
    assert len({(look["color"], look["marker"]) for look in many.values()}) == 40
    assert assign_looks(["random-init"])["random-init"]["color"] == "0.35"


def test_differences_in_the_table() -> None:
    accuracies = {"random": (0.50, 0.52, 0.51), "gmml": (0.40, 0.43, 0.41), "blur": (0.53, 0.51, 0.52),
                  "random-init": (0.30, 0.31, 0.32)}  # fmt: skip
    records = [record(name, seed, value) for name, values in accuracies.items() for seed, value in enumerate(values)]
    (section,) = compare_strategies(to_frame(records))
    rows = {row.label: row for row in section.rows}
    assert rows["random"].difference is None and rows["random-init"].from_untrained is None
    for name, other, difference, family in (("gmml", "random", rows["gmml"].difference, 2),
                                            ("blur", "random", rows["blur"].difference, 2),
                                            ("random", "random-init", rows["random"].from_untrained, 3)):  # fmt: skip
        test = scipy.stats.ttest_ind(accuracies[name], accuracies[other], equal_var=False)
        interval = test.confidence_interval(1 - 0.05 / family)
        assert difference is not None and difference.n == difference.n_other == 3
        assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high), rel=1e-5)
        assert difference.p == pytest.approx(min(1, family * test.pvalue), rel=1e-5)
    assert [row.label for row in section.rows if row.is_best] == ["blur", "random"]
    text = table_formats.as_markdown([section])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "**52.0 ± 2.5**" in lines["blur"] and "**" not in lines["gmml"] and "−9.7 [−13.7, −5.7]" in lines["gmml"]
    assert "corrected for 2 comparisons" in text and "cannot be told apart" in text and "Welch's test" in text
    difference = compare_strategies(to_frame(records), "blur")[0].rows[2].difference
    assert difference is not None and difference.mean == pytest.approx(-0.01)


def test_marks_say_what_a_row_cannot_claim() -> None:
    level = {"random": 0.5, "gmml": 0.6, "blur": 0.303, "block": 0.5, "random-init": 0.3}
    records = [record(name, seed, mean + seed / 500) for name, mean in level.items() for seed in range(5)
               if (name, seed) != ("block", 4)]  # fmt: skip
    for each in records:
        if each.strategy["name"] == "gmml":
            each.diagnostics["realised_ratio_mean"] = 0.6
            each.metrics["knn/top1/mean"] = 0.4
    records.append(record("block", 5, 0.52))
    (section,) = compare_strategies(to_frame(records))
    names = {row.label: row.name for row in section.rows}
    assert names["gmml"].endswith(" §") and names["block"].endswith(" ‡") and names["blur"].endswith(" †")
    assert [row.label for row in section.rows if row.is_best] == ["gmml"]
    text = table_formats.as_markdown([section])
    assert "†: not shown to be above random-init" in text and "‡: a mean over other seeds" in text
    assert "§: hides another share of the image than random (by more than 0.05)" in text
    assert "gmml: the sign of its difference from random is the opposite in k-NN mean." in text
    assert "block: the sign" not in text, "its difference from random is not shown to be one"


def test_the_primary_metric_is_what_the_runs_state() -> None:
    def runs(primary: str) -> list[RunRecord]:
        made = [record(name, seed, 0.5 + seed / 100, settings={"primary": primary})
                for name in ("random", "gmml") for seed in range(3)]  # fmt: skip
        for each in made:
            each.metrics["knn/top1/cls"] = 0.9 if each.strategy["name"] == "gmml" else 0.1
        return made

    (section,) = compare_strategies(to_frame(runs("knn/top1/cls")))
    assert section.metric == "knn/top1/cls" and section.rows[0].difference is not None
    assert section.rows[0].difference.mean == pytest.approx(0.8)
    (section,) = compare_strategies(to_frame(runs("linear/top1/mean")))
    assert section.metric == "linear/top1/mean"
    mixed = to_frame([*runs("knn/top1/cls"), *runs("linear/top1/mean")])
    assert {section.metric for section in compare_strategies(mixed)} == {"linear/top1/mean"}


def test_every_ratio_is_compared_with_random_at_that_ratio() -> None:
    records = [
        record(name, seed, mean + ratio / 10 + seed / 500, settings={"regime": "matched", "ratio": ratio})
        for name, mean in (("random", 0.5), ("gmml", 0.6)) for ratio in (0.5, 0.75) for seed in range(4)
    ]  # fmt: skip
    sections = compare_strategies(to_frame([*records, *(record("random-init", seed, 0.3) for seed in range(4))]))
    assert [(section.about, section.baseline) for section in sections] == [
        ("ratio=0.5", "random (ratio=0.5)"), ("ratio=0.75", "random (ratio=0.75)"),
    ]  # fmt: skip
    for section in sections:
        labels = [row.label for row in section.rows]
        assert labels == ["random-init", f"gmml ({section.about})", f"random ({section.about})"]
        difference = section.rows[1].difference
        assert difference is not None and difference.mean == pytest.approx(0.1)
    assert "**ratio=0.5: shapes" in table_formats.as_markdown(sections)
    results = Results(Path(), records, [])
    drawn = dict(figures.draw_figures(results))["differences"].axes[0]
    assert "same ratio" in drawn.get_xlabel() and len(drawn.get_yticklabels()) == 2
    assert {section.about for section in compare_strategies(to_frame(records), "gmml")} == {"ratio=0.5", "ratio=0.75"}


def test_runs_that_diverged_take_the_verdict_with_them() -> None:
    records = [record(name, seed, mean + seed / 500) for name, mean in (("random", 0.5), ("gmml", 0.6))
               for seed in range(4)]  # fmt: skip
    (section,) = compare_strategies(to_frame([*records, record("gmml", 4, status="diverged", metrics={})]))
    gmml = section.rows[0]
    assert gmml.difference is not None and gmml.difference.p is None and not gmml.is_best
    assert "Not judged, because some runs failed and the others are no fair sample: gmml." in " ".join(section.notes)


def test_too_few_seeds_for_so_many_strategies_claim_nothing() -> None:
    records = [record(name, seed, 0.5 + place / 10 + seed / 500) for place, name in
               enumerate(("random", "gmml", "blur", "block")) for seed in range(3)]  # fmt: skip
    (section,) = compare_strategies(to_frame(records))
    assert all(row.difference is None or row.difference.p is None for row in section.rows)
    assert not any(row.is_best for row in section.rows)
    assert "Nothing is tested: 3 seeds cannot tell 4 strategies apart; take 5." in section.notes


def test_one_seed_claims_nothing_and_says_so() -> None:
    (section,) = compare_strategies(to_frame([record("random"), record("gmml", accuracy=0.6)]))
    text = table_formats.as_markdown([section])
    assert "One seed: no interval can be given and nothing tested" in text and "+10.0 |" in text
    assert "group" not in text.split("|\n")[0] and "±" not in text and "[" not in text and "**6" not in text


def test_foreign_text_does_nothing_in_any_format() -> None:
    evil = record().model_copy(update={"strategy": {**record().strategy, "name": "<b>&_%$"}})
    sections = compare_strategies(to_frame([evil]))
    assert "&lt;b&gt;&amp;_%$" in table_formats.as_html(sections) and "<b>" not in table_formats.as_html(sections)
    assert r"$<$b$>$\&\_\%\$" in table_formats.as_latex(sections)


def test_many_records_are_tabulated_quickly(tmp_path: Path) -> None:
    """2,000 in under 5 s on two idle cores; twice that here, where other tests may share them."""
    records = [record("random", seed, 0.5 + seed / 1e4, run_id=f"random-{lr}-s{seed}", settings={"train.lr": lr / 1e5})
               for lr in range(1, 401) for seed in range(5)]  # fmt: skip
    for each in records:  # unsynced, unlike `write_records`
        path = tmp_path / "runs" / each.run_id / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(each.model_dump_json())
    start = time.process_time()
    text = write_tables(read_results(tmp_path), tmp_path / "tables")["md"]
    assert time.process_time() - start < 10
    assert text.count("random (lr=") == 400
