"""What a data set holds and how it would be read, before any run: files, pixels, sizes, classes, what is wrong."""

import hashlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_source import EncodedDataset
from maskbench.data.load import Labels, find_source
from maskbench.errors import UsageError
from maskbench.runtime.cpu import map_in_threads

FEW = 10  # images of a class, below which accuracies on it mean little
SPLITS = ("train", "validation", "test")
RANGE_SAMPLE = 500  # images of a split that are decoded for the range of their values
SMALL = (32, 32, 3)  # to which they are decoded


@dataclass(frozen=True)
class ImageFacts:
    """What the header and the bytes of an image say.

    Attributes:
        kind: Format and pixels, such as "JPEG RGB".
        rows: Height in pixels, as stored.
        cols: Width in pixels, as stored.
        frames: Number of frames or pages; the first is read.
        digest: Of the bytes.
        damage: Why it cannot be read; empty where it can.
    """

    kind: str
    rows: int
    cols: int
    frames: int
    digest: bytes
    damage: str = ""


@dataclass
class SplitSurvey:
    """One split.

    Attributes:
        images: Number of images.
        by_class: Images of each class, in the order of the classes; empty without classes.
        kinds: Images of each kind, damaged ones as "damaged".
        sizes: Rows x columns: least, median and most, of each side.
        value_range: Least and most value of a sample, of 0 to 255, as read.
        damaged: Why images cannot be read, a line each.
        several_frames: Images of which only the first frame is read.
    """

    images: int
    by_class: dict[str, int]
    kinds: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    value_range: tuple[int, int] | None = None
    damaged: list[str] = field(default_factory=list)
    several_frames: int = 0


@dataclass
class Survey:
    """A data set.

    Attributes:
        name: Its name in records.
        splits: By name: train, validation, test.
        classes: Class names; empty where images have no labels.
        left_out: Files that are not read, such as "3 files .heic"; empty where there are none.
        remarks: What a person should know before a run, a sentence each.
    """

    name: str
    splits: dict[str, SplitSurvey]
    classes: tuple[str, ...]
    left_out: str
    remarks: list[str] = field(default_factory=list)


def survey_dataset(dataset: str, data_dir: str | None = None, labels: Labels = None) -> Survey:
    """Look at every image file of a data set; a sample of them is decoded.

    Args:
        dataset: A path, or any other name of `maskbench.data.load_dataset` but shapes.
        data_dir: As there.
        labels: As there.

    Raises:
        UsageError: It would be refused; the message says why, and what to do.
    """
    source = find_source(dataset, data_dir, labels)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = source.read(Path(folder) / "unpacked")
        facts = {split: _read_facts(found.splits[split]) for split in SPLITS if split in found.splits}
        splits = {split: _survey_split(found, split, own) for split, own in facts.items()}
    survey = Survey(source.name, splits, found.classes, source.left_out)
    survey.remarks = [*_class_remarks(survey), *_file_remarks(survey), *_copy_remarks(facts)]
    if not found.classes:
        survey.remarks.append(f"no labels: pre-training works, probes need some: {source.explain_labels()}")
    return survey


def _read_facts(images: EncodedImages) -> list[ImageFacts]:
    def read(index: int) -> ImageFacts:
        digest = b""
        try:
            encoded = images.read_bytes(index)
            digest = hashlib.blake2b(encoded, digest_size=16).digest()
            with images.open_image(encoded, index) as image:
                kind = f"{image.format} {image.mode}"
                facts = ImageFacts(kind, image.height, image.width, getattr(image, "n_frames", 1), digest)
        except (UsageError, OSError, SyntaxError, ValueError) as error:
            return ImageFacts("damaged", 0, 0, 1, digest, str(error))
        return facts

    return list(map_in_threads(read, len(images)))


def _survey_split(found: EncodedDataset, split: str, facts: list[ImageFacts]) -> SplitSurvey:
    images = found.splits[split]
    counts = Counter(images.labels.tolist())
    survey = SplitSurvey(len(images), {name: counts[number] for number, name in enumerate(found.classes)})
    kinds = Counter(each.kind for each in facts)
    survey.several_frames = sum(each.frames > 1 for each in facts)
    whole = [each for each in facts if not each.damage]
    for name, sides in (("rows", [each.rows for each in whole]), ("columns", [each.cols for each in whole])):
        if sides:
            survey.sizes[name] = (min(sides), max(sides))
    survey.damaged = [each.damage for each in facts if each.damage]
    survey.value_range, late = _decode_sample(images, [number for number, each in enumerate(facts) if not each.damage])
    survey.damaged += late
    kinds["damaged"] += len(late)
    survey.kinds = {kind: count for kind, count in kinds.most_common() if count}
    return survey


def _decode_sample(images: EncodedImages, numbers: list[int]) -> tuple[tuple[int, int] | None, list[str]]:
    """The range of values of a sample, evenly spaced; and why images of it cannot be decoded."""
    sample = numbers[:: max(1, len(numbers) // RANGE_SAMPLE)][:RANGE_SAMPLE]

    def decode(place: int) -> tuple[int, int] | str:
        try:
            pixels = images.decode(sample[place], SMALL)
        except UsageError as error:
            return str(error)
        return int(pixels.min()), int(pixels.max())

    results = list(map_in_threads(decode, len(sample)))
    ranges = [each for each in results if isinstance(each, tuple)]
    lines = [each for each in results if isinstance(each, str)]
    if not ranges:
        return None, lines
    return (min(low for low, _ in ranges), max(high for _, high in ranges)), lines


def _class_remarks(survey: Survey) -> list[str]:
    remarks = []
    for split, own in survey.splits.items():
        small = {name: count for name, count in own.by_class.items() if count < FEW}
        if small:
            names = _list([f"{name} ({count})" for name, count in small.items()])
            remarks.append(f"{split}: fewer than {FEW} images of {names}: accuracies on them mean little")
    counts = [count for count in survey.splits["train"].by_class.values() if count] if "train" in survey.splits else []
    if counts and max(counts) >= 5 * min(counts):
        remarks.append(
            f"train: the largest class has {max(counts) / min(counts):.0f} times as many images as the smallest, so "
            f"top-1 accuracy is mostly about the large ones: always saying the largest gets "
            f"{100 * max(counts) / sum(counts):.0f} % of train right"
        )
    return remarks


def _file_remarks(survey: Survey) -> list[str]:
    remarks = []
    for split, own in survey.splits.items():
        if own.damaged:
            remarks.append(f"{split}: {len(own.damaged)} images cannot be read, and the data set is refused: "
                           f"{_list(own.damaged, '; ')}")  # fmt: skip
        if own.several_frames:
            remarks.append(f"{split}: {own.several_frames} files have several frames or pages; the first is read")
        kinds = [kind for kind in own.kinds if kind != "damaged"]
        if len({kind.partition(" ")[2] for kind in kinds}) > 1:
            remarks.append(f"{split}: several kinds of pixels ({_list(sorted(kinds))}), all converted to --in-chans")
        if own.value_range is not None and own.value_range[1] <= 16:
            remarks.append(f"{split}: nearly black: no value of the sample is above {own.value_range[1]} of 255")
    return remarks


def _copy_remarks(facts: Mapping[str, list[ImageFacts]]) -> list[str]:
    """Files that are in a split twice, or in two splits."""
    remarks = []
    digests = {split: Counter(each.digest for each in own if each.digest) for split, own in facts.items()}
    for split, own in digests.items():
        copies = sum(count - 1 for count in own.values())
        if copies:
            remarks.append(f"{split}: {copies} files are exact copies of others in it")
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        if first in digests and second in digests:
            shared = sum(count for digest, count in digests[second].items() if digest in digests[first])
            if shared:
                remarks.append(
                    f"{shared} files of {second} are exact copies of files of {first}, so accuracies will be too high"
                )
    return remarks


def _list(names: list[str], comma: str = ", ") -> str:
    """The first five."""
    return comma.join(names[:5]) + (f"{comma}and {len(names) - 5} more" if len(names) > 5 else "")


def sample_images(
    dataset: str, data_dir: str | None, labels: Labels, shape: tuple[int, int, int], count: int
) -> dict[str, list[np.ndarray]]:
    """Up to `count` training images of each class, or of all without classes, as a model gets them: decoded, turned
    upright and resized to `shape` (rows, columns, channels)."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find_source(dataset, data_dir, labels).read(Path(folder) / "unpacked")
        train = found.splits["train"]
        of_class = {name: (train.labels == number).nonzero()[:, 0] for number, name in enumerate(found.classes)}
        chosen = of_class or {"train": torch.arange(len(train))}
        return {name: _decode_first(train, own.tolist(), shape, count) for name, own in chosen.items()}


def _decode_first(
    images: EncodedImages, numbers: list[int], shape: tuple[int, int, int], count: int
) -> list[np.ndarray]:
    """The first `count` images that can be decoded."""
    decoded: list[np.ndarray] = []
    for number in numbers:
        if len(decoded) == count:
            break
        with suppress(UsageError):
            decoded.append(images.decode(number, shape))
    return decoded
