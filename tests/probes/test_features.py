"""Statistics of features against loops over pairs."""

import dataclasses
import math

import pytest
import torch

from maskbench.probes.features import FeatureStatistics, alignment, uniformity
from tests.helpers import tiny_subject


def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(one @ two / (one.norm() * two.norm()))


def test_uniformity_over_pairs() -> None:
    values = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double()
    pairs = [(i, j) for i in range(40) for j in range(40) if i != j]
    mean = sum(math.exp(-2 * (2 - 2 * cosine(values[i], values[j]))) for i, j in pairs) / len(pairs)
    for chunk in (7, 40):
        assert uniformity(3 * values, chunk=chunk) == pytest.approx(math.log(mean), abs=1e-6)
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0, abs=1e-5), "all alike"


def test_uniformity_of_a_sphere() -> None:
    """Two points on opposite sides: exp(-8) for the pair."""
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8, abs=1e-4)


def test_alignment_by_hand() -> None:
    one, two = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(1)).double()
    mean = sum(2 - 2 * cosine(x, y) for x, y in zip(one, two, strict=True)) / 30
    assert alignment(one, 5 * two) == pytest.approx(mean, abs=1e-9)


def test_no_label_is_read() -> None:
    splits = tiny_subject.splits()
    blind = dataclasses.replace(splits, test=dataclasses.replace(splits.test, labels=splits.test.labels * 0))
    probe = FeatureStatistics(images=60)
    assert probe(tiny_subject.subject()).metrics == probe(tiny_subject.subject(splits=blind)).metrics


def test_crops_differ_between_the_two_and_stay_the_same_for_all() -> None:
    probe, given = FeatureStatistics(), tiny_subject.subject()
    one, two = (probe.random_crops(given, given.splits.test, number) for number in range(2))
    assert one.pixels.shape == (150, 3, 16, 16) and one.pixels.dtype == torch.uint8
    assert (one.pixels != two.pixels).any()
    again = probe.random_crops(tiny_subject.subject(encoder=tiny_subject.encoder(5)), given.splits.test, 0)
    assert torch.equal(one.pixels, again.pixels)
    whole = FeatureStatistics(scale=(1.0, 1.0)).random_crops(given, given.splits.test, 0)
    same = (whole.pixels == given.splits.test.pixels).flatten(1).all(1)
    mirrored = (whole.pixels == given.splits.test.pixels.flip(3)).flatten(1).all(1)
    assert (same | mirrored).float().mean() > 0.2, "where the square box is drawn, the image is cut nowhere"


def test_attention_against_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop: patches from the most looked at down, until they hold 60 %; the object's are those half covered."""
    given = tiny_subject.subject()
    probe, test = FeatureStatistics(images=40), given.splits.test
    weights = torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
    rows = iter(weights.split(10))
    monkeypatch.setattr(type(given.encoder), "cls_attention", lambda self, images: next(rows))
    monkeypatch.setattr("maskbench.probe.CPU_BATCH_TOKENS", 10 * 16)
    assert test.objects is not None
    found = []
    for attention, mask in zip(weights, test.objects[:40].float(), strict=True):
        objects = {4 * r + c for r in range(4) for c in range(4)
                   if mask[4 * r : 4 * r + 4, 4 * c : 4 * c + 4].mean() >= 0.5}  # fmt: skip
        looked_at: set[int] = set()
        for place in sorted(range(16), key=lambda place: -float(attention[place])):
            if sum(float(attention[other]) for other in looked_at) < 0.6 * float(attention.sum()):
                looked_at.add(place)
        found.append(len(objects & looked_at) / len(objects | looked_at))
    images = test.take(torch.arange(40))
    assert probe.attention_iou(given, images) == pytest.approx(sum(found) / 40, abs=1e-6)


def test_images_are_drawn_from_all_of_test() -> None:
    """Test sets come class by class: of 150 images in order, 50 are drawn of every class. Hypergeometric, sd 2.7."""
    probe, splits = FeatureStatistics(images=50), tiny_subject.splits()
    order = splits.test.labels.argsort(stable=True)
    given = tiny_subject.subject(splits=dataclasses.replace(splits, test=splits.test.take(order)))
    seen: list[torch.Tensor] = []
    probe_crops = FeatureStatistics.random_crops

    def watched(self: FeatureStatistics, subject: object, images: object, number: int) -> object:
        seen.append(images.labels)  # type: ignore[attr-defined]
        return probe_crops(self, subject, images, number)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureStatistics, "random_crops", watched)
        probe(given)
    assert (torch.bincount(seen[0], minlength=3) >= 5).all() and len(seen[0]) == 50
