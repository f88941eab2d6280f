"""Probes against scikit-learn, and what they must and must not see."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from maskbench.errors import UsageError
from maskbench.models.encoder import Encoder
from maskbench.probe import REGISTRY, FeatureProbe, Features, ProbeResult, extract
from maskbench.probes.knn import Knn
from maskbench.probes.linear import Linear, LinearClassifier
from tests.helpers import tiny_subject
from tests.helpers.synthetic_features import features
from tests.helpers.tiny_subject import SYSTEM


@pytest.mark.parametrize("decays", [(), (0.0,), (1e-2, -1.0)], ids=str)
@pytest.mark.parametrize("name", ["linear", "lowshot", "dense"])
def test_decays_without_a_meaning_are_refused(name: str, decays: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=f"{name}: decays="):
        REGISTRY.create(name, decays=decays)


def test_knn_agrees_with_scikit_learn() -> None:
    given = features()

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp(-distances / 0.07)  # cosine distance = 1 - similarity

    theirs = KNeighborsClassifier(20, weights=weights, metric="cosine").fit(given.train, given.train_labels)
    result = Knn().ask({"mean": given})
    assert result.metrics["knn/top1/mean"] == pytest.approx(theirs.score(given.test, given.test_labels), abs=0.002)
    agreement = (result.predictions["knn/mean"].numpy() == theirs.predict(given.test)).mean()
    assert agreement > 0.998


def test_knn_by_hand_and_in_any_chunk() -> None:
    known = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    asked = torch.tensor([[2.0, 0.1], [0.2, 3.0], [-5.0, -0.1]])
    for chunk in (1, 2, 3):
        assert Knn(k=2).predict(known, labels, asked, 3, chunk=chunk)[2].tolist() == [0, 1, 2]
    assert Knn(k=50).predict(known, labels, asked, 3)[50].tolist() == [0, 1, 2]


@pytest.mark.parametrize("decay", [1e-1, 1e-3, 1e-5])
def test_linear_agrees_with_scikit_learn(decay: float) -> None:
    given = features()
    mean, std = given.train.mean(0), given.train.std(0, correction=0)
    # scikit-learn minimises C * sum of losses + |W|^2 / 2, so C = 1 / (decay * n).
    theirs = LogisticRegression(C=1 / (decay * len(given.train)), max_iter=20_000, tol=1e-8)
    theirs.fit((given.train - mean) / std, given.train_labels)
    ours = LinearClassifier.fit(given.train, given.train_labels, 6, [1e-1, decay])[-1]
    score = theirs.score((given.test - mean) / std, given.test_labels)
    assert float((ours.predict(given.test) == given.test_labels).float().mean()) == pytest.approx(score, abs=0.002)

    def objective(weight: Tensor, bias: Tensor) -> float:
        logits = (given.train - mean) / std @ weight + bias
        penalty = decay / 2 * float(weight.square().sum())
        return float(torch.nn.functional.cross_entropy(logits, given.train_labels)) + penalty

    reached = objective(ours.weight * std[:, None], ours.bias)
    best = objective(torch.tensor(theirs.coef_.T).float(), torch.tensor(theirs.intercept_).float())
    assert reached < best + 1e-4


FEATURE_PROBES = [name for name in REGISTRY.names() if issubclass(REGISTRY.get(name), FeatureProbe)]


@pytest.mark.parametrize("name", FEATURE_PROBES)
class TestProbesOfFeatures:
    def test_shuffled_labels_give_chance(self, name: str) -> None:
        given = features()
        shuffled = given.train_labels[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
        chance = dataclasses.replace(
            given, train_labels=shuffled, fit_labels=shuffled[200:], validation_labels=shuffled[:200]
        )
        many = {"shots": (5,), "shares": (0.1,), "draws": 60, "decays": (1e-2,)} if name == "lowshot" else {}
        for value in tops(REGISTRY.create(name, **many).ask({"mean": chance})):
            # From a few mislabelled images all test images near one another get one answer: a draw has a sd of up to
            # sqrt(5) / 6 = 0.37, the mean of 60 one of 0.048.
            assert abs(value - 1 / 6) < (0.15 if many else 0.05)

    def test_features_that_hold_the_class_give_everything(self, name: str) -> None:
        labels = torch.arange(600) % 6
        one_hot = torch.eye(6)[labels] + 0.01 * torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
        given = Features(one_hot, labels, one_hot, labels, one_hot, labels, one_hot, labels, classes=6)
        assert all(value == 1 for value in tops(REGISTRY.create(name).ask({"mean": given})))


def tops(result: ProbeResult) -> list[float]:
    """The accuracies among a probe's answers."""
    return [value for key, value in result.metrics.items() if "/top1/" in key]


QUICK: dict[str, dict[str, Any]] = {  # parameters with which slow probes answer at once
    "attentive": {"epochs": 2, "batch_size": 30},
    "dense": {"images": 60},
    "finetune": {"epochs": 2, "batch_size": 30, "blr": 1e-2},
    "lowshot": {"shots": (2,), "shares": (0.1,), "draws": 2},
    "robust": {"dropped": (50,), "severities": (3,)},
}


@pytest.mark.parametrize("name", REGISTRY.names())
class TestEveryProbe:
    """What each must and must not see, and must leave alone."""

    def asked(self, name: str, **given: Any) -> ProbeResult:
        return REGISTRY.create(name, **QUICK.get(name, {}))(tiny_subject.subject(**given))

    def test_test_labels_change_no_choice_and_no_prediction(self, name: str) -> None:
        one = self.asked(name)
        splits = tiny_subject.splits()
        other = dataclasses.replace(splits.test, labels=(splits.test.labels + 1) % tiny_subject.CLASSES)
        two = self.asked(name, splits=dataclasses.replace(splits, test=other))
        assert one.chosen == two.chosen and one.predictions.keys() == two.predictions.keys()
        for key in one.predictions.keys() - {"robust/swapped/cls", "robust/swapped/mean"}:  # labels choose the pairs
            assert torch.equal(one.predictions[key], two.predictions[key])
        assert not tops(one) or tops(one) != tops(two)

    def test_same_numbers_twice_and_in_any_batch(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        one, two = self.asked(name), self.asked(name)
        assert one.metrics == two.metrics and one.chosen == two.chosen
        monkeypatch.setattr("maskbench.probe.CPU_BATCH_TOKENS", 7 * 16)
        assert self.asked(name).metrics == pytest.approx(one.metrics, abs=0.01)

    def test_the_encoder_is_left_alone(self, name: str) -> None:
        encoder = tiny_subject.encoder().train()
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        self.asked(name, encoder=encoder)
        assert encoder.training and all(parameter.requires_grad for parameter in encoder.parameters())
        assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())

    def test_features_come_from_all_tokens_in_eval_mode(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is masked or dropped. What trains a copy of the encoder, or drops patches itself, says so here."""
        seen = set()
        encode = Encoder.forward

        def watched(self: Encoder, images: Tensor, present: Any = None, replaced: Any = None, *args: Any) -> Any:
            seen.add((self.training, present is not None or replaced is not None))
            return encode(self, images, present, replaced, *args)

        monkeypatch.setattr(Encoder, "forward", watched)
        self.asked(name)
        allowed = {"finetune": {(True, False)}, "robust": {(False, True)}}.get(name, set())
        assert seen <= {(False, False)} | allowed


def test_decay_is_chosen_on_validation() -> None:
    given = features(150, distance=0.6)  # few and noisy: the decay matters
    probe = Linear(decays=(1.0, 1e-1, 1e-2, 1e-6))
    fitted = LinearClassifier.fit(given.fit, given.fit_labels, 6, sorted(probe.decays, reverse=True))
    scores = {
        decay: float((one.predict(given.validation) == given.validation_labels).float().mean())
        for decay, one in zip(sorted(probe.decays, reverse=True), fitted, strict=True)
    }
    chosen = probe.ask({"mean": given}).chosen["linear/decay/mean"]
    assert scores[chosen] == max(scores.values())
    assert all(decay <= chosen for decay, score in scores.items() if score == scores[chosen])


def test_features_do_not_depend_on_batch_size_or_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, splits = tiny_subject.encoder().train(), tiny_subject.splits()
    whole = extract(encoder, splits.train, splits, SYSTEM)
    assert encoder.training, "the mode is given back"
    monkeypatch.setattr("maskbench.probe.CPU_BATCH_TOKENS", 7 * 16)
    parts = extract(encoder.eval(), splits.train, splits, SYSTEM)
    for pooling in ("cls", "mean"):
        torch.testing.assert_close(whole[pooling], parts[pooling], rtol=1e-5, atol=1e-5)


def test_splits_serve_their_purpose() -> None:
    given = tiny_subject.subject().features()["mean"]
    assert len(given.fit) + len(given.validation) == len(given.train) == 300
    assert len(given.validation) == 30
    assert torch.bincount(given.validation_labels).tolist() == [10, 10, 10]
    assert not any((row == given.fit).all(1).any() for row in given.validation)


def test_the_last_blocks_side_by_side() -> None:
    """By hand: hooks see what leaves each block; the last norm, then the class token or the mean patch."""
    encoder, images = tiny_subject.encoder(depth=5).eval(), torch.randn(2, 3, 16, 16)
    outputs: list[Tensor] = []
    for block in encoder.vit.blocks:
        block.register_forward_hook(lambda module, given, output: outputs.append(output))
    encoder.vit(images)
    wanted = torch.cat([encoder.vit.norm(tokens)[:, 0] for tokens in outputs[-4:]], 1)
    found = encoder.pooled_features(images, blocks=4)
    torch.testing.assert_close(found["cls"], wanted)
    assert found["mean"].shape == (2, 4 * 32)
    torch.testing.assert_close(encoder.pooled_features(images, blocks=1), encoder.pooled_features(images))


def test_linear_reads_the_blocks_it_is_told() -> None:
    given = tiny_subject.subject(encoder=tiny_subject.encoder(depth=4))
    result = Linear(blocks=4)(given)
    assert set(result.metrics) == {"linear-4/top1/cls", "linear-4/top1/mean"}
    assert given.features(4)["cls"].train.shape == (300, 128)
    refusal = Linear(blocks=5).incompatibility_reason(given.encoder, given.splits)
    assert refusal is not None and "the model has 4 blocks" in refusal


def test_linear_without_standardising_agrees_with_scikit_learn() -> None:
    given = features()
    mean, decay = given.train.mean(0), 1e-3
    theirs = LogisticRegression(C=1 / (decay * len(given.train)), max_iter=20_000, tol=1e-8)
    theirs.fit(given.train - mean, given.train_labels)
    result = Linear(decays=(decay,), standardise=False).ask({"mean": given})
    score = theirs.score(given.test - mean, given.test_labels)
    assert result.metrics["linear-raw/top1/mean"] == pytest.approx(score, abs=0.002)


def test_shares_of_classes_are_as_good_as_labels() -> None:
    given = features(400)
    hard = LinearClassifier.fit(given.train, given.train_labels, 6, [1e-2])[0]
    soft = LinearClassifier.fit(given.train, torch.eye(6)[given.train_labels], 6, [1e-2])[0]
    # The search ends at gradients of 1e-5; where the curvature is least, that of the decay, it is 1e-3 away.
    std = given.train.std(0, correction=0)[:, None]
    torch.testing.assert_close(hard.weight * std, soft.weight * std, rtol=0, atol=2e-3)


def test_several_k_in_one_pass() -> None:
    given = features()
    together = Knn(k=(100, 5, 20)).ask({"mean": given})  # type: ignore[arg-type]
    assert set(together.metrics) == {"knn/top1/mean", "knn-5/top1/mean", "knn-100/top1/mean"}
    for k in (5, 20, 100):
        label = "knn" if k == 20 else f"knn-{k}"
        assert together.metrics[f"{label}/top1/mean"] == Knn(k=k).ask({"mean": given}).metrics[f"{label}/top1/mean"]
