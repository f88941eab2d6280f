"""The probe of harder images: what is dropped, put elsewhere and corrupted, and what is made of it."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.data.augment import central_boxes, resample
from maskbench.data.corruptions import CORRUPTIONS, corrupt
from maskbench.data.splits import Images
from maskbench.errors import UsageError
from maskbench.probe import Subject
from maskbench.probes.linear import Linear
from maskbench.probes.robust import (
    Robust,
    crop_as_seen,
    partners_of_other_class,
    patches_kept,
    read_kept_patches,
    swap_backgrounds,
)
from tests.helpers import tiny_subject

GRID = Grid(4, 4, 4)


def distorted(count: int = 12) -> Images:
    """Images on a canvas larger than the model's, of originals with several aspects."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, 3, 25, 31), generator=generator, dtype=torch.uint8)
    objects = torch.rand(count, 5, 6, generator=generator).repeat_interleave(5, 1).repeat_interleave(6, 2) < 0.5
    return Images(pixels, torch.arange(count) % 3, torch.linspace(0.5, 2, count), objects[..., :31])


class TestDropping:
    def test_the_count_is_that_of_the_grid_and_one_patch_stays(self) -> None:
        for grid in (GRID, Grid(8, 8, 4), Grid(14, 14, 16)):
            for percent in (1, 10, 50, 90, 99):
                present = patches_kept(torch.arange(5), grid, percent)
                assert (present.sum(1) == max(1, grid.size - grid.count(percent / 100))).all()
        assert (patches_kept(torch.arange(5), Grid(1, 2, 4), 99).sum(1) == 1).all()
        assert patches_kept(torch.arange(5), GRID, 50).sum(1).tolist() == [8] * 5

    def test_more_are_dropped_of_the_same(self) -> None:
        numbers, before = torch.arange(300), torch.ones(300, 16, dtype=torch.bool)
        for percent in range(1, 100, 7):
            present = patches_kept(numbers, GRID, percent)
            assert not (present & ~before).any()
            before = present

    def test_an_image_has_patches_of_its_own(self) -> None:
        numbers = torch.arange(2000)
        present = patches_kept(numbers, GRID, 50)
        index = torch.tensor([7, 1999, 3])
        assert torch.equal(patches_kept(index, GRID, 50), present[index])
        # Each patch stays with chance 1/2: its share of 2000 images has a sd of 0.0112. Two patches stay together with
        # 8 * 7 / (16 * 15) = 0.233, a sd of 0.0095. 5 of them.
        assert (present.double().mean(0) - 0.5).abs().max() < 0.056
        together = present.double().T @ present.double() / 2000
        assert (together[~torch.eye(16, dtype=torch.bool)] - 7 / 30).abs().max() < 0.048

    def test_what_is_dropped_is_not_there(self) -> None:
        given, numbers = tiny_subject.subject(), torch.arange(40)
        present = patches_kept(numbers, GRID, 60)
        images = given.splits.test.take(numbers)
        noise = torch.randint(0, 256, images.pixels.shape, generator=torch.Generator().manual_seed(0)).byte()
        shown = GRID.pixels(present)

        def features(pixels: Tensor) -> dict[str, Tensor]:
            return given.extract(dataclasses.replace(images, pixels=pixels), read_kept_patches(given.encoder, present))

        before = features(images.pixels)
        for pooling, values in features(torch.where(shown, images.pixels, noise)).items():
            assert torch.equal(values, before[pooling])
        for pooling, values in features(torch.where(shown, noise, images.pixels)).items():
            assert ((values - before[pooling]).abs().amax(1) > 1e-3).all()

    def test_features_are_timms_of_the_tokens_that_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("maskbench.probe.CPU_BATCH_TOKENS", 3 * 16)
        given, numbers = tiny_subject.subject(encoder=tiny_subject.encoder().eval()), torch.arange(10)
        images, present = given.splits.test.take(numbers), patches_kept(numbers, GRID, 70)
        found = given.extract(images, read_kept_patches(given.encoder, present))
        seen = given.extract(images, lambda normalised: {"": normalised})[""]
        vit = given.encoder.vit
        with torch.no_grad():
            for i in range(10):
                patches = vit.patch_embed(seen[i : i + 1]) + vit.pos_embed[:, 1:]
                tokens = torch.cat([vit.cls_token + vit.pos_embed[:, :1], patches[:, present[i]]], 1)
                for block in vit.blocks:
                    tokens = block(tokens)
                tokens = vit.norm(tokens)[0]
                torch.testing.assert_close(found["cls"][i], tokens[0])
                torch.testing.assert_close(found["mean"][i], tokens[1:].mean(0))


class TestSwapping:
    def test_partners_are_of_other_classes_all_equally_likely(self) -> None:
        labels = torch.tensor([0, 1, 1, 2, 0, 1, 2, 3] * 500)
        found = partners_of_other_class(labels)
        assert (labels[found] != labels).all()
        assert torch.equal(found, partners_of_other_class(labels))
        for label in range(4):
            of_others = labels[found[labels == label]].bincount(minlength=4).double()
            others = labels[labels != label].bincount(minlength=4).double()
            expected = of_others.sum() * others / others.sum()
            # Binomial: its variance is below its expectation. 5 sd.
            assert ((of_others - expected).abs() <= 5 * expected.sqrt()).all()
        # An image is taken by those of class c with chance size_c / (4000 - size_c) in all: 0.81 to 1.27 times on
        # average, Poisson. Ten times has a chance of at most 1e-6, none of exp(-1.27) = 0.28 to exp(-0.81) = 0.44, of
        # 4000 images 1123 to 1779 with a sd below 32.
        times = found.bincount(minlength=4000)
        assert times.max() < 10 and 1123 - 160 < (times == 0).sum() < 1779 + 160

    def test_one_image_of_another_class_serves_all(self) -> None:
        assert partners_of_other_class(torch.tensor([0, 0, 1, 0])).tolist()[:2] == [2, 2]

    def test_the_object_is_kept_and_nothing_else(self) -> None:
        images, others = distorted(), distorted()
        others = others.take(torch.arange(12).roll(1))
        found = swap_backgrounds(images, others)
        assert images.objects is not None and torch.equal(found.labels, images.labels)
        for i in range(12):
            for row in range(25):
                for col in range(31):
                    source = images if images.objects[i, row, col] else others
                    assert torch.equal(found.pixels[i, :, row, col], source.pixels[i, :, row, col])


class TestAsSeen:
    def test_it_shows_what_the_encoder_would_see(self) -> None:
        images, mean, std = distorted(), torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
        seen = crop_as_seen(images, (16, 20))
        assert seen.pixels.shape == (12, 3, 16, 20) and seen.pixels.dtype == torch.uint8
        one, two = (resample(of, central_boxes(of, (16, 20)), (16, 20), mean, std) for of in (images, seen))
        half = 0.5 / 255 / std.view(3, 1, 1)
        assert ((one - two).abs() <= half + 1e-5).all()

    def test_a_canvas_of_the_models_size_stays_as_it_is(self) -> None:
        images = tiny_subject.pictures(20, 0)
        seen = crop_as_seen(images, (16, 16))
        assert images.objects is not None and seen.objects is not None
        assert torch.equal(seen.pixels, images.pixels) and torch.equal(seen.objects, images.objects)

    def test_objects_get_the_images_crop(self) -> None:
        images = distorted()
        assert images.objects is not None
        painted = dataclasses.replace(images, pixels=images.objects[:, None].byte().repeat(1, 3, 1, 1) * 255)
        seen = crop_as_seen(painted, (16, 20))
        assert seen.objects is not None and 0.2 < seen.objects.float().mean() < 0.8
        for channel in range(3):
            assert torch.equal(seen.objects, seen.pixels[:, channel] >= 128)


def watched(
    monkeypatch: pytest.MonkeyPatch, given: Subject, probe: Robust, numbers: Tensor
) -> list[tuple[str, Images, Any]]:
    """Each change of these test images, with the images and the reader given to `Subject.extract`."""
    seen: list[tuple[Images, Any]] = []
    extract = Subject.extract

    def watch(self: Subject, images: Images, read: Any = None, **how: bool) -> dict[str, Tensor]:
        seen.append((images, read))
        return extract(self, images, read, **how)

    given.features()
    with monkeypatch.context() as patch:
        patch.setattr(Subject, "extract", watch)
        names = [name for name, features in probe.extract_changed(given, numbers) for _ in features]
    return [(name, *one) for name, one in zip(names, seen, strict=True)]


class TestTheProbe:
    def test_what_is_encoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given, numbers = tiny_subject.subject(), torch.arange(40, 90)
        every, test = given.splits.test, given.splits.test.take(numbers)
        assert test.objects is not None
        asked = watched(monkeypatch, given, Robust(dropped=(20, 80), severities=(2, 4)), numbers)
        names = [name for name, _, _ in asked]
        assert names == ["dropped-20", "dropped-80", "swapped", *(name for name in CORRUPTIONS for _ in range(2))]
        for name, images, read in asked:
            assert (read is not None) == name.startswith("dropped") and torch.equal(images.labels, test.labels)
        assert torch.equal(asked[0][1].pixels, test.pixels)
        other = every.pixels[partners_of_other_class(every.labels)[numbers]]
        assert torch.equal(asked[2][1].pixels, torch.where(test.objects[:, None], test.pixels, other))
        for place, name in enumerate(CORRUPTIONS):
            for severity, (_, images, _) in zip((2, 4), asked[3 + 2 * place : 5 + 2 * place], strict=True):
                assert torch.equal(images.pixels, corrupt(test.pixels, name, severity, numbers))

    def test_accuracies_by_hand(self) -> None:
        given = tiny_subject.subject(splits=tiny_subject.splits(150, 60))
        test, probe = given.splits.test, Robust(dropped=(30, 70), severities=(1, 5))
        result = probe(given)

        def score(features: dict[str, Tensor], pooling: str) -> float:
            predicted = classifiers[pooling].logits(features[pooling]).argmax(1).tolist()
            return sum(one == two for one, two in zip(predicted, test.labels.tolist(), strict=True)) / 60

        fitted = {pooling: Linear().fit(features) for pooling, features in given.features().items()}
        classifiers = {pooling: classifier for pooling, (_, classifier) in fitted.items()}
        for pooling in ("cls", "mean"):
            assert result.chosen[f"robust/decay/{pooling}"] == fitted[pooling][0]
            of_corruptions = []
            for name in CORRUPTIONS:
                scores = []
                for severity in (1, 5):
                    pixels = corrupt(test.pixels, name, severity, torch.arange(60))
                    scores.append(score(given.extract(dataclasses.replace(test, pixels=pixels)), pooling))
                of_corruptions.append(sum(scores) / 2)
                assert result.metrics[f"robust/{name}/top1/{pooling}"] == pytest.approx(of_corruptions[-1])
            assert result.metrics[f"robust/corrupted/top1/{pooling}"] == pytest.approx(sum(of_corruptions) / 7)
            for percent in (30, 70):
                read = read_kept_patches(given.encoder, patches_kept(torch.arange(60), GRID, percent))
                found = result.metrics[f"robust/dropped-{percent}/top1/{pooling}"]
                assert found == pytest.approx(score(given.extract(test, read), pooling))
        assert len(result.metrics) == 2 * (2 + 1 + 7 + 1) and len(result.predictions) == 2 * (2 + 1 + 7)
        for name, predicted in result.predictions.items():
            probe_name, change, pooling = name.split("/")
            assert predicted.shape == ((2, 60) if change in CORRUPTIONS else (60,))
            right = sum((row == test.labels).double().mean().item() for row in predicted.view(-1, 60))
            share = right / len(predicted.view(-1, 60))
            assert result.metrics[f"{probe_name}/{change}/top1/{pooling}"] == pytest.approx(share)

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        probe = Robust(dropped=(50,), severities=(3,))
        whole = probe(tiny_subject.subject())
        monkeypatch.setattr("maskbench.probes.robust.CHUNK", 13)
        assert probe(tiny_subject.subject()).metrics == pytest.approx(whole.metrics, abs=0.01)

    @pytest.mark.parametrize("missing", ["masks", "classes"])
    def test_without_masks_or_another_class_nothing_is_swapped(self, missing: str) -> None:
        splits = tiny_subject.splits(60, 30)
        masks = {"objects": None} if missing == "masks" else {"labels": torch.zeros_like(splits.test.labels)}
        splits = dataclasses.replace(splits, test=dataclasses.replace(splits.test, **masks))
        metrics = Robust(dropped=(50,), severities=(3,))(tiny_subject.subject(splits=splits)).metrics
        assert not any("swapped" in key for key in metrics) and "robust/dropped-50/top1/cls" in metrics

    def test_classes_that_show_in_the_object_alone_survive_the_swap(self) -> None:
        """A bright square on a dark ground stays where its partner's square is next to it: harder, and not chance."""
        given = tiny_subject.subject()
        metrics = Robust(dropped=(10, 90), severities=(1,))(given).metrics
        clean = Linear()(given).metrics["linear/top1/mean"]
        assert metrics["robust/dropped-10/top1/mean"] > metrics["robust/dropped-90/top1/mean"]
        # A third of 150 has a sd of 0.038: 4 of them.
        assert 1 / 3 + 0.16 < metrics["robust/swapped/top1/mean"] < clean
        assert metrics["robust/gaussian-blur/top1/mean"] == pytest.approx(clean, abs=0.1)

    def test_no_share_and_no_severity_that_is_none(self) -> None:
        for wrong in ({"severities": (6,)}, {"severities": ()}, {"dropped": (0,)}, {"dropped": (100,)}):
            with pytest.raises(UsageError):
                Robust(**wrong)
