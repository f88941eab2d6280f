"""Probes against scikit-learn, and what they must and must not see."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from maskbench.data.splits import Images, assemble
from maskbench.grid import Grid
from maskbench.probe import REGISTRY, Features, extract, features_of
from maskbench.probes.knn import Knn
from maskbench.probes.linear import Linear, Softmax
from maskbench.system import System
from maskbench.vit import build_encoder

SYSTEM = System(device="cpu", precision="fp32")


def clouds(count: int, dim: int = 24, classes: int = 6, distance: float = 1.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes with correlated dimensions of very different scales."""
    fixed = torch.Generator().manual_seed(99)
    centres = distance * torch.randn(classes, dim, generator=fixed)
    mixing = torch.randn(dim, dim, generator=fixed) * torch.logspace(-2, 1, dim)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return (centres[labels] + torch.randn(count, dim, generator=generator)) @ mixing, labels


def features(train: int = 2000, **given: float) -> Features:
    x, y = clouds(train, seed=1, **given)  # type: ignore[arg-type]
    test, test_labels = clouds(3000, seed=2, **given)  # type: ignore[arg-type]
    held = train // 10
    return Features(x, y, x[held:], y[held:], x[:held], y[:held], test, test_labels, classes=6)


def test_knn_agrees_with_scikit_learn() -> None:
    given = features()

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / 0.07)  # cosine distance = 1 - similarity

    theirs = KNeighborsClassifier(20, weights=weights, metric="cosine").fit(given.train, given.train_labels)
    result = Knn()({"mean": given})
    assert result.metrics["knn/top1/mean"] == pytest.approx(theirs.score(given.test, given.test_labels), abs=0.002)
    agreement = (result.predictions["knn/mean"].numpy() == theirs.predict(given.test)).mean()
    assert agreement > 0.998


def test_knn_by_hand_and_in_any_chunk() -> None:
    known = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    asked = torch.tensor([[2.0, 0.1], [0.2, 3.0], [-5.0, -0.1]])
    for chunk in (1, 2, 3):
        assert Knn(k=2).predict(known, labels, asked, 3, chunk=chunk).tolist() == [0, 1, 2]
    assert Knn(k=50).predict(known, labels, asked, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("decay", [1e-1, 1e-3, 1e-5])
def test_linear_agrees_with_scikit_learn(decay: float) -> None:
    given = features()
    mean, std = given.train.mean(0), given.train.std(0, correction=0)
    # scikit-learn minimises C * sum of losses + |W|^2 / 2, so C = 1 / (decay * n).
    theirs = LogisticRegression(C=1 / (decay * len(given.train)), max_iter=20_000, tol=1e-8)
    theirs.fit((given.train - mean) / std, given.train_labels)
    ours = Softmax.fit(given.train, given.train_labels, 6, [1e-1, decay])[-1]
    score = theirs.score((given.test - mean) / std, given.test_labels)
    assert float((ours.predict(given.test) == given.test_labels).float().mean()) == pytest.approx(score, abs=0.002)

    def objective(weight: Tensor, bias: Tensor) -> float:
        logits = (given.train - mean) / std @ weight + bias
        penalty = decay / 2 * float(weight.square().sum())
        return float(torch.nn.functional.cross_entropy(logits, given.train_labels)) + penalty

    reached = objective(ours.weight * std[:, None], ours.bias)
    best = objective(torch.tensor(theirs.coef_.T).float(), torch.tensor(theirs.intercept_).float())
    assert reached < best + 1e-4


@pytest.mark.parametrize("name", REGISTRY.names())
class TestEveryProbe:
    def test_shuffled_labels_give_chance(self, name: str) -> None:
        given = features()
        shuffled = given.train_labels[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
        chance = dataclasses.replace(
            given, train_labels=shuffled, fit_labels=shuffled[200:], validation_labels=shuffled[:200]
        )
        for value in REGISTRY.create(name)({"mean": chance}).metrics.values():
            assert abs(value - 1 / 6) < 0.05

    def test_features_that_hold_the_class_give_everything(self, name: str) -> None:
        labels = torch.arange(600) % 6
        one_hot = torch.eye(6)[labels] + 0.01 * torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
        given = Features(one_hot, labels, one_hot, labels, one_hot, labels, one_hot, labels, classes=6)
        assert all(value == 1 for value in REGISTRY.create(name)({"mean": given}).metrics.values())

    def test_test_labels_change_no_choice_and_no_prediction(self, name: str) -> None:
        given = features()
        other = dataclasses.replace(given, test_labels=(given.test_labels + 1) % 6)
        one, two = (REGISTRY.create(name)({"mean": each}) for each in (given, other))
        assert one.chosen == two.chosen
        assert all(torch.equal(one.predictions[key], two.predictions[key]) for key in one.predictions)
        assert one.metrics != two.metrics

    def test_same_numbers_twice(self, name: str) -> None:
        given = features(500)
        assert REGISTRY.create(name)({"cls": given}).metrics == REGISTRY.create(name)({"cls": given}).metrics


def test_decay_is_chosen_on_validation() -> None:
    given = features(150, distance=0.6)  # few and noisy: the decay matters
    probe = Linear(decays=(1.0, 1e-1, 1e-2, 1e-6))
    fitted = Softmax.fit(given.fit, given.fit_labels, 6, sorted(probe.decays, reverse=True))
    scores = {
        decay: float((one.predict(given.validation) == given.validation_labels).float().mean())
        for decay, one in zip(sorted(probe.decays, reverse=True), fitted, strict=True)
    }
    chosen = probe({"mean": given}).chosen["linear/decay/mean"]
    assert scores[chosen] == max(scores.values())
    assert all(decay <= chosen for decay, score in scores.items() if score == scores[chosen])


def small_world() -> tuple:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (300, 3, 16, 16), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.arange(300) % 3, torch.ones(300))
    splits = assemble("noise", images, images.take(torch.arange(90)), classes=("a", "b", "c"), fingerprint="x")
    torch.manual_seed(0)
    kwargs = {"embed_dim": 32, "depth": 1, "num_heads": 2, "drop_path_rate": 0.5}
    return build_encoder("vit_tiny_patch16_224", Grid(4, 4, 4), 3, kwargs, plain_attention=True), splits


def test_features_do_not_depend_on_batch_size_or_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, splits = small_world()
    encoder.train()
    whole = extract(encoder, splits.train, splits, SYSTEM)
    assert encoder.training, "the mode is given back"
    monkeypatch.setattr("maskbench.probe.BATCH", {False: 7, True: 7})
    parts = extract(encoder.eval(), splits.train, splits, SYSTEM)
    for pooling in ("cls", "mean"):
        torch.testing.assert_close(whole[pooling], parts[pooling], rtol=1e-5, atol=1e-5)


def test_splits_serve_their_purpose() -> None:
    encoder, splits = small_world()
    given = features_of(encoder, splits, SYSTEM)["mean"]
    assert len(given.fit) + len(given.validation) == len(given.train) == 300
    assert len(given.validation) == 30
    assert torch.bincount(given.validation_labels).tolist() == [10, 10, 10]
    assert not any((row == given.fit).all(1).any() for row in given.validation)
