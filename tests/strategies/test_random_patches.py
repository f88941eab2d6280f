"""Random masking: uniform over all subsets of the right size."""

import itertools
import json
from pathlib import Path

import pytest
from scipy import stats

from maskbench.config.settings import RunConfig
from maskbench.core.grid import Grid
from maskbench.runs.plan import make_plan
from maskbench.strategy import REGISTRY
from tests.helpers.invariants import Lab, invariants_of, notices


@notices("flip")
def counts_truncate_what_is_kept(lab: Lab) -> None:
    for rows, cols, ratio, count in [
        (14, 14, 0.75, 147), (14, 14, 0.6, 118), (14, 14, 0.7, 138), (14, 14, 0.8, 157), (14, 14, 0.9, 177),
        (8, 8, 0.6, 39), (8, 8, 0.75, 48), (6, 10, 0.75, 45),
    ]:  # fmt: skip
        hidden = lab.hidden("random", 8, Grid(rows, cols, 1), ratio=ratio)
        assert (hidden.sum(1) == count).all(), (rows, cols, ratio)


@notices("flip", "share")
def every_patch_is_hidden_equally_often(lab: Lab) -> None:
    hidden = lab.hidden("random", 4096).double()
    # Binomial(4096, 3/4) for each of 196 patches; 5 standard deviations have probability 6e-7 each.
    sd = (0.75 * 0.25 / 4096) ** 0.5
    assert (hidden.mean(0) - 0.75).abs().max() < 5 * sd


@notices("share")
def pairs_are_as_independent_as_a_fixed_count_allows(lab: Lab) -> None:
    hidden = lab.hidden("random", 8192).double()
    both = hidden.T @ hidden / 8192
    expected = 147 * 146 / (196 * 195)
    apart = ~both.new_ones(196, 196).triu(0).bool()
    sd = (expected * (1 - expected) / 8192) ** 0.5  # 19,110 pairs: 6 standard deviations have probability 4e-5 in all
    assert (both[apart] - expected).abs().max() < 6 * sd


@notices("share")
def all_subsets_are_equally_likely(lab: Lab) -> None:
    hidden = lab.hidden("random", 8000, Grid(2, 3, 1), ratio=0.5)
    seen = [tuple(row.nonzero()[:, 0].tolist()) for row in hidden]
    subsets = list(itertools.combinations(range(6), 3))
    assert stats.chisquare([seen.count(subset) for subset in subsets]).pvalue > 1e-4


@notices("share")
def it_hides_as_much_as_attmask_with_attmasks_ranges(lab: Lab) -> None:
    """AttMask: half of the images, one ratio a batch, uniform in 0.1 to 0.5."""
    control = {"ratio": (0.1, 0.5), "masked": 0.5, "scope": "batch"}
    counts = lab.hidden("random", 4096, **control).sum(1)
    assert len(set(counts.tolist())) == 2, "one ratio, and images that are left whole"
    assert abs(float((counts > 0).double().mean()) - 0.5) < 5 * 0.5 / 4096**0.5
    drawn = [int(lab.hidden("random", 64, step=step, **control).sum(1).max()) for step in range(400)]
    assert min(drawn) >= 20 and max(drawn) <= 98
    assert stats.kstest([count / 196 for count in drawn], stats.uniform(0.1, 0.4).cdf).pvalue > 1e-4
    each = lab.hidden("random", 4096, ratio=(0.1, 0.5)).sum(1)
    assert len(set(each.tolist())) > 70, "a ratio an image"


test_holds, test_notices = invariants_of(__name__)


def test_new_parameters_leave_the_names_of_finished_runs() -> None:
    """The id of a committed run, and matched leaves them out."""
    record = (
        next((Path(__file__).parents[2] / "results" / "cifar10-small" / "runs").glob("random-*-s0")) / "record.json"
    )
    stored = json.loads(record.read_text())
    assert make_plan(RunConfig.model_validate(stored["config"])).run_id == stored["run_id"]
    assert REGISTRY.get("random")().matched(0.6).parameters == {"ratio": 0.6, "masked": None, "scope": None}


def test_bad_ratios_are_refused() -> None:
    for ratio in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="ratio"):
            REGISTRY.create("random", ratio=ratio)
