"""Few labels: which, how many, and what is made of them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from maskbench.probes.lowshot import LowShot, draw_shots
from tests.helpers.synthetic_features import features


def test_the_chosen_are_of_their_class_and_nested() -> None:
    labels = torch.tensor([0, 1, 2] * 40 + [2] * 5)
    few, more = (draw_shots(labels, torch.tensor([n, n, 2 * n]), draw=3) for n in (2, 7))
    assert torch.bincount(labels[few]).tolist() == [2, 2, 4] and len(set(few.tolist())) == 8
    assert set(few.tolist()) < set(more.tolist())
    assert set(draw_shots(labels, torch.tensor([2, 2, 4]), draw=4).tolist()) != set(few.tolist())
    assert len(draw_shots(labels, torch.tensor([1000, 0, 1]), draw=0)) == 41, "no more than there are"


def test_every_image_is_as_likely() -> None:
    """2,000 draws of 5 of 20: each is in with chance 1/4, a binomial with sd 19.4; 5 sd around 500."""
    labels = torch.zeros(20, dtype=torch.int64)
    counts = torch.stack(
        [torch.bincount(draw_shots(labels, torch.tensor([5]), draw), minlength=20) for draw in range(2000)]
    )
    assert ((counts.sum(0) - 500).abs() < 97).all()


@pytest.mark.parametrize("shots", [5, 30])
def test_agrees_with_scikit_learn(shots: int) -> None:
    given, decay = features(), 1e-2
    result = LowShot(shots=(shots,), shares=(), draws=3, decays=(decay,)).ask({"mean": given})
    mean, std = given.train.mean(0), given.train.std(0, correction=0)
    scores = []
    for draw in range(3):
        few = draw_shots(given.fit_labels, torch.full((6,), shots), draw)
        theirs = LogisticRegression(C=1 / (decay * len(few)), max_iter=20_000, tol=1e-8)
        inputs = (given.fit[few] - mean) / std
        theirs.fit(inputs - inputs.mean(0), given.fit_labels[few])
        scores.append(theirs.score((given.test - mean) / std - inputs.mean(0), given.test_labels))
        said = theirs.predict((given.test - mean) / std - inputs.mean(0))
        assert (result.predictions[f"lowshot-{shots}/mean"][draw].numpy() == said).mean() > 0.99
    assert result.metrics[f"lowshot-{shots}/top1/mean"] == pytest.approx(np.mean(scores), abs=0.002)
    assert result.metrics[f"lowshot-{shots}/sd/mean"] == pytest.approx(np.std(scores, ddof=1), abs=0.002)


def test_shares_are_of_the_part_that_is_not_held_out() -> None:
    given = features(500)
    result = LowShot(shots=(), shares=(0.1, 1.0), draws=2).ask({"mean": given})
    assert set(result.metrics) == {f"lowshot-{size}/{what}/mean" for size in ("10%", "100%") for what in ("top1", "sd")}
    assert result.metrics["lowshot-100%/sd/mean"] < 0.001, "all draws are the same"
    assert result.metrics["lowshot-10%/top1/mean"] < result.metrics["lowshot-100%/top1/mean"]


def test_more_labels_are_better() -> None:
    metrics = LowShot().ask({"mean": features(3000, distance=0.6)}).metrics
    means = [metrics[f"lowshot-{size}/top1/mean"] for size in ("1", "5", "10", "10%")]
    assert means == sorted(means) and means[-1] > means[0] + 0.1
