"""The probe of patches against segmentation written out in loops."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.data.splits import Images, Splits, build_splits, stratified_order
from maskbench.errors import UsageError
from maskbench.models.tokens import EncodedTokens
from maskbench.probe import Subject
from maskbench.probes.dense import Dense, class_shares, iterate_tokens_and_classes, mean_iou, predict_pixels
from maskbench.probes.linear import LinearClassifier
from tests.helpers import tiny_subject
from tests.helpers.tiny_subject import CLASSES, SYSTEM

GRID = Grid(4, 4, 4)


class Colours(nn.Module):
    """An encoder whose tokens are the mean colours of patches."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid, self.mask_token = grid, nn.Parameter(torch.zeros(1, 1, 3))

    def forward(self, images: Tensor) -> EncodedTokens:
        patches = nn.functional.avg_pool2d(images, self.grid.patch).flatten(2).transpose(1, 2)
        return EncodedTokens(patches[:, :0], patches)


def of_colours(patch: int, splits: Splits) -> Subject:
    grid = Grid(16 // patch, 16 // patch, patch)
    return Subject(Colours(grid), splits, SYSTEM)  # type: ignore[arg-type]


def intersection_over_union(truth: Tensor, found: Tensor, classes: int) -> float:
    """The mean over the classes that occur, by sets of pixels."""
    values = []
    for label in range(classes):
        one, two = ({tuple(place) for place in (of == label).nonzero().tolist()} for of in (truth, found))
        if one | two:
            values.append(len(one & two) / len(one | two))
    return sum(values) / len(values)


def enlarged(logits: Tensor, patch: int) -> Tensor:
    """(rows * patch, cols * patch, classes) of logits (rows, cols, classes): between the centres of patches in
    proportion to the distance, beyond the outer centres as at them."""
    rows, cols, classes = logits.shape
    found = torch.zeros(rows * patch, cols * patch, classes, dtype=torch.float64)
    for row in range(rows * patch):
        for col in range(cols * patch):
            y = min(max((row + 0.5) / patch - 0.5, 0), rows - 1)
            x = min(max((col + 0.5) / patch - 0.5, 0), cols - 1)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    weight = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
                    if weight:
                        found[row, col] += weight * logits[i, j].double()
    return found


def truth_of(images: Images) -> Tensor:
    """(N, 16, 16): of images that are not cropped."""
    assert images.objects is not None
    return torch.where(images.objects, 1 + images.labels[:, None, None], 0)


def test_shares_of_classes_are_counted() -> None:
    truth = torch.randint(0, 4, (3, 8, 12), generator=torch.Generator().manual_seed(0))
    found = class_shares(truth, Grid(2, 3, 4), 5)
    assert found.shape == (3, 6, 5)
    for i in range(3):
        for patch in range(6):
            top, left = 4 * (patch // 3), 4 * (patch % 3)
            pixels = truth[i, top : top + 4, left : left + 4].flatten().tolist()
            assert found[i, patch].tolist() == [pixels.count(label) / 16 for label in range(5)]


def test_answers_are_the_largest_of_logits_between_the_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    classifier = LinearClassifier(*(torch.randn(*shape, generator=generator) for shape in ((7,), (7, 4), (4,))))
    tokens = torch.randn(2, 6, 7, generator=generator)
    found = predict_pixels(classifier, tokens, Grid(2, 3, 5))
    for i in range(2):
        logits = ((tokens[i] - classifier.mean) @ classifier.weight + classifier.bias).view(2, 3, 4)
        assert torch.equal(found[i], enlarged(logits, 5).argmax(2))


def test_mean_iou_by_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 3, 6):
        truth, found = (torch.randint(0, high, (4, 5, 5), generator=generator) for high in (classes, classes - 1))
        table = torch.zeros(classes + 2, classes + 2, dtype=torch.int64)  # two more classes never occur
        for one, two in zip(truth.flatten().tolist(), found.flatten().tolist(), strict=True):
            table[one, two] += 1
        assert mean_iou(table) == pytest.approx(intersection_over_union(truth, found, classes + 2))
    # A class that is answered and is not there counts, with 0; one that is there and not answered too.
    assert mean_iou(torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 0]])) == pytest.approx((3 / 6 + 0 + 0) / 3)


def test_masks_get_the_crop_of_the_images() -> None:
    """Masks painted into the pixels: the tokens of the smallest patches then are the truth."""
    generator = torch.Generator().manual_seed(5)
    objects = torch.rand(12, 5, 7, generator=generator).repeat_interleave(5, 1).repeat_interleave(5, 2) < 0.5
    pixels = objects[:, None].repeat(1, 3, 1, 1).byte() * 255
    images = Images(pixels, torch.arange(12) % 3, torch.linspace(0.5, 2, 12), objects)
    splits = build_splits("masks", images, images, classes=("a", "b", "c"), fingerprint="x")
    for patch in (1, 2):
        ((tokens, truth),) = iterate_tokens_and_classes(of_colours(patch, splits), images)
        shown = tokens.mean(2) * splits.std.mean() + splits.mean.mean()  # all channels have the same moments
        if patch == 1:
            clear = (shown.view(12, 16, 16) - 0.5).abs() > 1e-4  # a half may be rounded either way
            assert (
                torch.equal((shown.view(12, 16, 16) >= 0.5)[clear], (truth > 0)[clear]) and clear.float().mean() > 0.9
            )
        labels = truth.flatten(1).amax(1)
        assert labels.tolist() == [1 + number % 3 for number in range(12)]
        assert ((truth == 0) | (truth == labels[:, None, None])).all() and 0.2 < (truth > 0).float().mean() < 0.8


def test_tokens_that_hold_the_class_give_everything() -> None:
    result = Dense(images=60, decays=(1e-5,))(of_colours(1, tiny_subject.splits(120, 60)))
    assert result.metrics == {"dense/miou/patches": 1.0, "dense/pixel-accuracy/patches": 1.0}
    assert result.chosen == {"dense/decay/patches": 1e-5} and not result.predictions
    tied = Dense(images=60, decays=(1e-7, 1e-5, 1e-6))(of_colours(1, tiny_subject.splits(120, 60)))
    assert tied.chosen == {"dense/decay/patches": 1e-5}, "of equally good decays the largest"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_that_say_nothing_of_the_test_images(seed: int) -> None:
    """Of C equally frequent classes with T object pixels in all, let a share p_k be answered k. If labels are drawn
    apart from the images, the intersection is p_k T / C and the union T / C + p_k T - p_k T / C, so the quotient is
    p_k / (1 + (C - 1) p_k); this is concave, so the sum over k is largest where all p_k are 1 / C, C / (2 C - 1). With
    the background, at most 1, the mean is at most (1 + 3 / 5) / 4 = 0.4 for C = 3. What is answered outside the object
    only adds to unions.

    The share of right pixels among the object's, on which the sum depends, has a sd of at most
    sqrt(1/3 * 2/3 / 600) = 0.019 for 600 images, and the sum's derivative by it there is 2.2; divided by 4 and 4 times:
    0.042.
    """
    splits = tiny_subject.splits(120, 600)
    labels = splits.test.labels[torch.randperm(600, generator=torch.Generator().manual_seed(seed))]
    shuffled = dataclasses.replace(splits, test=dataclasses.replace(splits.test, labels=labels))
    probe = Dense(images=60, decays=(1e-5,))
    assert probe(of_colours(2, shuffled)).metrics["dense/miou/patches"] < 0.4 + 0.042
    assert probe(of_colours(2, splits)).metrics["dense/miou/patches"] > 0.8


def test_the_whole_probe_written_out() -> None:
    given = tiny_subject.subject(encoder=tiny_subject.encoder().eval(), splits=tiny_subject.splits(100, 40))
    decays = (1.0, 1e-2, 1e-4)
    result = Dense(images=50, decays=decays)(given)
    splits, vit = given.splits, given.encoder.vit

    def tokens(images: Images) -> Tensor:
        normalised = (images.pixels / 255 - splits.mean.view(3, 1, 1)) / splits.std.view(3, 1, 1)
        with torch.no_grad():
            return vit.forward_features(normalised)[:, 1:]

    def fitted(order: Tensor, decay: float) -> LinearClassifier:
        images = splits.train.take(order[:50])
        shares = torch.zeros(50, 16, CLASSES + 1)
        for i, row, col in torch.cartesian_prod(*map(torch.arange, (50, 16, 16))).tolist():
            shares[i, 4 * (row // 4) + col // 4, of_train[order[i], row, col]] += 1 / 16
        return LinearClassifier.fit(tokens(images).flatten(0, 1), shares.flatten(0, 1), CLASSES + 1, [decay])[0]

    def scored(images: Images, classifier: LinearClassifier) -> tuple[float, float]:
        logits = classifier.logits(tokens(images)).view(-1, 4, 4, CLASSES + 1)
        found, truth = torch.stack([enlarged(one, 4).argmax(2) for one in logits]), truth_of(images)
        return intersection_over_union(truth, found, CLASSES + 1), float((found == truth).double().mean())

    of_train = truth_of(splits.train)
    order = stratified_order(splits.train.labels)
    assert isinstance(splits.validation, Tensor)
    held_out = splits.train.take(splits.validation)
    fit = torch.tensor([number for number in order.tolist() if number in set(splits.fit.tolist())])
    scores = {decay: scored(held_out, fitted(fit, decay))[0] for decay in decays}
    best = max(decay for decay in decays if scores[decay] == max(scores.values()))
    assert result.chosen["dense/decay/patches"] == best and len(set(scores.values())) > 1
    miou, right = scored(splits.test, fitted(order, best))
    # L-BFGS ends within 1e-5 of the minimum from any start, so a pixel between two classes may fall either way.
    assert result.metrics["dense/miou/patches"] == pytest.approx(miou, abs=2e-3)
    assert result.metrics["dense/pixel-accuracy/patches"] == pytest.approx(right, abs=2e-3)


def test_the_choice_is_made_on_images_that_were_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []
    fitted = Dense.fit_classifiers

    def watch(self: Dense, subject: Subject, order: Tensor, decays: list[float]) -> list[LinearClassifier]:
        learned.append((order[: self.images].tolist(), decays))
        return fitted(self, subject, order, decays)

    monkeypatch.setattr(Dense, "fit_classifiers", watch)
    given = tiny_subject.subject(splits=tiny_subject.splits(100, 40))
    Dense(images=50, decays=(1e-4, 1e-2))(given)
    (fit, tried), (train, chosen) = learned
    assert len(fit) == 50 and set(fit) <= set(given.splits.fit.tolist()) and tried == [1e-2, 1e-4]
    assert train == stratified_order(given.splits.train.labels)[:50].tolist() and len(chosen) == 1


def test_test_masks_change_no_choice() -> None:
    splits = tiny_subject.splits(100, 40)
    assert splits.test.objects is not None
    other = dataclasses.replace(splits.test, objects=~splits.test.objects)
    one, two = (
        Dense(images=50)(tiny_subject.subject(splits=dataclasses.replace(splits, test=test)))
        for test in (splits.test, other)
    )
    assert one.chosen == two.chosen and one.metrics != two.metrics


def test_only_the_first_images_of_each_part_are_learned_from() -> None:
    splits = tiny_subject.splits(100, 40)
    assert isinstance(splits.validation, Tensor) and splits.train.objects is not None
    order = stratified_order(splits.train.labels)
    fit = order[torch.isin(order, splits.fit)]
    needed = torch.cat([order[:30], fit[:30], splits.validation])
    rest = torch.ones(100, dtype=torch.bool).index_fill(0, needed, False)
    assert 40 < rest.sum() < 70
    objects = torch.where(rest[:, None, None], ~splits.train.objects, splits.train.objects)
    changed = dataclasses.replace(splits, train=dataclasses.replace(splits.train, objects=objects))
    one, two = (Dense(images=30)(tiny_subject.subject(splits=given)) for given in (splits, changed))
    assert one == two

    def weight(number: int) -> Tensor:
        """What is learned where the mask of this image in the order is turned inside out."""
        objects = splits.train.objects.clone()
        objects[order[number]] = ~objects[order[number]]
        train = dataclasses.replace(splits.train, objects=objects)
        given = tiny_subject.subject(splits=dataclasses.replace(splits, train=train))
        return Dense(images=30).fit_classifiers(given, order, [1e-3])[0].weight

    assert torch.equal(weight(30), weight(99))
    assert not torch.equal(weight(0), weight(30)) and not torch.equal(weight(29), weight(30))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Dense(images=50)(tiny_subject.subject())
    monkeypatch.setattr("maskbench.probes.dense.CHUNK", 13)
    assert Dense(images=50)(tiny_subject.subject()).metrics == pytest.approx(whole.metrics, abs=1e-3)


@pytest.mark.parametrize("part", ["train", "test", "validation"])
def test_data_without_masks_are_refused(part: str) -> None:
    splits = dataclasses.replace(tiny_subject.splits(60, 30), validation=tiny_subject.pictures(20, 3))
    encoder = tiny_subject.encoder()
    for complete in (splits, tiny_subject.splits(60, 30)):
        assert Dense().incompatibility_reason(encoder, complete) is None
    without = dataclasses.replace(splits, **{part: dataclasses.replace(getattr(splits, part), objects=None)})
    refusal = "dense needs object masks, which squares has not; leave it out of --probes"
    assert Dense().incompatibility_reason(encoder, without) == refusal


def test_a_validation_split_of_its_own_is_read() -> None:
    splits = tiny_subject.splits(60, 30)
    own = dataclasses.replace(splits, validation=tiny_subject.pictures(20, 3), fit=torch.arange(60))
    assert set(Dense(images=40)(tiny_subject.subject(splits=own)).metrics) == {
        "dense/miou/patches",
        "dense/pixel-accuracy/patches",
    }


def test_no_images_are_too_few() -> None:
    with pytest.raises(UsageError):
        Dense(images=0)
