"""Verdicts on what papers say: by hand, by scipy, and by simulated experiments whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from maskbench.analysis import claims, table_formats
from maskbench.analysis.mean_differences import compare_means
from maskbench.analysis.results import read_results
from maskbench.config.claims import CLAIMS_FILE, EPOCHS_TO_ACCURACY, Claim, dump_claims, read_claims
from maskbench.errors import UsageError
from maskbench.record import RunRecord
from tests.helpers.records import record, write_records

FIRST = Claim(says="Groups are better", source="arXiv 1", better="gmml", than="random")
ACCURACIES = {
    "random": (0.50, 0.51, 0.49, 0.50, 0.50),
    "gmml": (0.55, 0.56, 0.54, 0.55, 0.56),
    "block": (0.50, 0.52, 0.48, 0.51, 0.50),
    "blur": (0.40, 0.41, 0.39, 0.40, 0.41),
    "noise": (0.41, 0.40, 0.40, 0.39, 0.40),
    "random-init": (0.42, 0.43, 0.41, 0.42, 0.42),
}


def folder_of(path: Path, accuracies: dict[str, tuple[float, ...]], *all_claims: Claim) -> Path:
    runs = [record(name, seed, own) for name, values in accuracies.items() for seed, own in enumerate(values)]
    write_records(path, *runs)
    (path / CLAIMS_FILE).write_text(dump_claims(list(all_claims)), encoding="utf-8")
    return path


def judge(path: Path, accuracies: dict[str, tuple[float, ...]], *all_claims: Claim) -> list[claims.ClaimRow]:
    (section,) = claims.make_sections(read_results(folder_of(path, accuracies, *all_claims)))
    return section.rows


def test_verdicts_in_fixed_words(tmp_path: Path) -> None:
    """One claim of each kind; intervals by scipy's Welch test, three comparisons."""
    rows = judge(
        tmp_path,
        ACCURACIES,
        FIRST,
        Claim(says="Turned round", source="2", better="random", than="gmml", metric="knn/top1/cls"),
        Claim(says="Alike", source="3", better="block", than="random"),
        Claim(says="Nothing learned", source="4", better="blur", than="noise"),
        Claim(says="Misspelt", source="5", better="gnml", than="random"),
        Claim(says="Not measured", source="6", better="gmml", than="random", metric="finetune/top1/mean"),
    )
    holds, reversed_, alike, floor, misspelt, unmeasured = (row.verdict for row in rows)
    assert (holds, reversed_) == ("holds here", "reversed here")
    sides = [list(ACCURACIES[name]) for name in ("block", "random")]
    interval = stats.ttest_ind(*sides, equal_var=False).confidence_interval(1 - 0.05 / 3)
    assert alike == f"no difference larger than {100 * max(-interval.low, interval.high):.1f} points"
    assert floor == "not testable here, because neither row is shown to be above random-init"
    assert misspelt == "not testable here, because there is no row gnml"
    assert unmeasured == "not testable here, because no run of gmml has finetune/top1/mean"
    found = rows[2].difference
    assert found is not None and (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)


def test_whether_a_row_is_above_the_untrained_encoder_may_itself_be_asked(tmp_path: Path) -> None:
    """blur is below it; the claim that it is above is turned round, and not set aside because blur learned nothing."""
    (row,) = judge(tmp_path, ACCURACIES, Claim(says="It teaches", source="1", better="blur", than="random-init"))
    assert row.verdict == "reversed here"


def test_failed_runs_are_no_fair_sample(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"random": ACCURACIES["random"], "gmml": ACCURACIES["gmml"][:4]}, FIRST)
    write_records(folder, record("gmml", 4, status="failed", metrics={}, curve=[]))
    (section,) = claims.make_sections(read_results(folder))
    assert section.rows[0].verdict == "not testable here, because 1 of 5 runs of gmml failed or diverged"


def curve_of(readings: list[float]) -> list[dict[str, float]]:
    return [{"epoch": place, "images": place, "cost/train_s": place, "online/knn/top1/mean": reading}
            for place, reading in enumerate(readings, 1)]  # fmt: skip


def learning(name: str, seed: int, readings: list[float]) -> RunRecord:
    return record(name, seed, curve=curve_of(readings))


def test_who_learns_faster(tmp_path: Path) -> None:
    """The target is 0.5, the lower of both ends. gmml is there after 2 epochs and stays, random after 4 or, where no
    second reading follows, at the end."""
    claim = Claim(says="Sooner", source="1", better="gmml", than="random", metric=EPOCHS_TO_ACCURACY)
    fast, slow, late = [0.1, 0.5, 0.6, 0.6, 0.6], [0.1, 0.2, 0.5, 0.5, 0.5], [0.1, 0.2, 0.5, 0.4, 0.5]
    runs = [learning("gmml", seed, fast) for seed in range(5)]
    runs += [learning("random", seed, late if seed == 4 else slow) for seed in range(5)]
    write_records(tmp_path, *runs)
    (tmp_path / CLAIMS_FILE).write_text(dump_claims([claim]), encoding="utf-8")
    (section,) = claims.make_sections(read_results(tmp_path))
    (row,) = section.rows
    assert row.difference is not None
    assert row.difference.mean == pytest.approx(2 - (4 * 3 + 5) / 5) and row.verdict == "holds here"
    text = table_formats.as_markdown([section])
    assert "−1.4 [−2.5, −0.3]" in text and "two online k-NN readings in a row" in text


def test_a_broken_file_costs_the_claims_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, ACCURACIES, FIRST)
    assert read_claims(folder) == [FIRST]
    for text, mistake in (("claims: 3", "claims=3 should be a valid list"), ("[", "is not YAML")):
        (folder / CLAIMS_FILE).write_text(text)
        with pytest.raises(UsageError, match=mistake):
            read_claims(folder)
        assert claims.make_sections(read_results(folder)) == []
        assert "claims left out" in capsys.readouterr().err


def test_strategies_that_are_the_same_are_told_apart_in_few_cases(tmp_path: Path) -> None:
    """Noisy plateaus and rising curves of one kind for both rows. At a rate of 5 %, 400 experiments show more than 8 %
    with a chance below 0.5 % (binomial)."""
    generator = np.random.default_rng(0)
    usual = {name: learning(name, 0, []) for name in ("gmml", "random")}
    false = 0
    for rise in (0.0, 0.02):
        for _ in range(200):
            rows = []
            for name in ("gmml", "random"):
                own = 0.3 + rise * np.arange(8) + generator.normal(0, 0.01, (5, 8)) + generator.normal(0, 0.01, (5, 1))
                rows.append([usual[name].model_copy(update={"seed": seed, "curve": curve_of(readings.tolist())})
                             for seed, readings in enumerate(own)])  # fmt: skip
            found = compare_means(*claims.epochs_to_accuracy(*rows))
            false += found.is_better or found.is_worse
    assert false / 400 <= 0.08
