"""`maskbench data`: what a person hears of a folder before the first run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.command_line import Done, maskbench
from tests.helpers.image_files import CLASSES, png, write_folders, write_parquet


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 images for training, 30 for test, of three classes."""
    write_folders(tmp_path / "photos", "train", 0, 60, 12, 20)
    write_folders(tmp_path / "photos", "test", 60, 30, 12, 20)
    return tmp_path / "photos"


def survey(folder: Path, *flags: str) -> Done:
    return maskbench("data", f"./{folder.name}", *flags, cwd=folder.parent)


def test_counts_kinds_sizes_and_ranges(photos: Path) -> None:
    Image.fromarray(np.full((40, 8), 200, np.uint8)).save(photos / "train" / "cat" / "grey.png")
    done = survey(photos, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    train = found["splits"]["train"]
    assert list(found["splits"]) == ["train", "test"] and found["classes"] == CLASSES
    assert train["images"] == 61 and train["by_class"] == {"cat": 21, "dog": 20, "emu": 20}
    assert train["kinds"] == {"PNG RGB": 60, "PNG L": 1}
    assert train["sizes"] == {"rows": [12, 40], "columns": [8, 20]}
    values = [np.array(Image.open(path)) for path in photos.glob("train/*/*.png")]
    assert train["value_range"][0] >= min(each.min() for each in values)
    assert train["value_range"][1] <= max(each.max() for each in values), "of images made smaller"
    assert "several kinds of pixels" in " ".join(found["remarks"])
    text = survey(photos).out
    assert "photos: 91 images, 3 classes" in text and "12-40 x 8-20" in text and "60 PNG RGB, 1 PNG L" in text


def damage(photos: Path) -> None:
    path = photos / "train" / "cat" / "0000.png"
    path.write_bytes(path.read_bytes()[:60])


def deepen(photos: Path) -> None:
    Image.fromarray(np.full((12, 12), 40_000, np.uint16)).save(photos / "train" / "dog" / "deep.png")


def copy_to_test(photos: Path) -> None:
    shutil.copy(photos / "train/cat/0000.png", photos / "test/cat/copy.png")


def copy_within(photos: Path) -> None:
    shutil.copy(photos / "train/cat/0000.png", photos / "train/cat/copy.png")


def add_a_small_class(photos: Path) -> None:
    for split in ("train", "test"):
        for number in range(2):
            path = photos / split / "fox" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(1000 + number + 10 * (split == "test")))


def darken(photos: Path) -> None:
    for number, path in enumerate(sorted(photos.glob("train/*/*.png"))):
        Image.fromarray(np.full((12, 12 + number, 3), 9, np.uint8)).save(path)


def add_frames(photos: Path) -> None:
    pages = [Image.fromarray(np.full((12, 12, 3), value, np.uint8)) for value in (10, 200)]
    pages[0].save(photos / "train/cat/pages.gif", save_all=True, append_images=pages[1:])


def add_others(photos: Path) -> None:
    (photos / "train/cat/scan.dcm").write_bytes(b"x")
    (photos / "train/cat/.hidden.png").write_bytes(png(3))


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (damage, 2, "train: 1 images cannot be read, and the data set is refused: cannot decode train/cat/0000.png"),
        (deepen, 2, "more than 8 bits per channel"),
        (copy_to_test, 0, "1 files of test are exact copies of files of train, so accuracies will be too high"),
        (copy_within, 0, "train: 1 files are exact copies of others in it"),
        (add_a_small_class, 0, "fewer than 10 images of fox (2): accuracies on them mean little"),
        (add_a_small_class, 0, "the largest class has 10 times as many images as the smallest"),
        (darken, 0, "nearly black: no value of the sample is above 9 of 255"),
        (add_frames, 0, "1 files have several frames or pages; the first is read"),
        (add_others, 0, "left out: 1 hidden file, 1 file .dcm"),
    ],
)
def test_what_a_person_needs_to_know(photos: Path, spoil, code: int, words: str) -> None:  # type: ignore[no-untyped-def]
    spoil(photos)
    done = survey(photos)
    assert done.code == code and words in done.out, done
    if code == 2:
        assert "so a run refuses the data" in done.err and len(done.err.strip().splitlines()) == 1


def test_what_a_run_refuses_is_refused_in_the_same_words(photos: Path) -> None:
    shutil.rmtree(photos / "test")
    done = survey(photos)
    assert done.code == 2 and "no test split in" in done.err and not done.out
    missing = maskbench("data", "./nowhere", cwd=photos.parent)
    assert missing.code == 2 and "no folder nowhere" in missing.err
    assert maskbench("data", "shapes", cwd=photos.parent).code == 2


def test_images_without_labels_and_parquet(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    done = survey(tmp_path)
    assert done.code == 0 and "no labels: pre-training works, probes need some: sort the images into" in done.out
    write_parquet(tmp_path / "table" / "train.parquet", 0, 60)
    write_parquet(tmp_path / "table" / "test.parquet", 60, 30)
    found = json.loads(survey(tmp_path / "table", "--json").out)
    assert found["splits"]["train"]["by_class"] == {"cat": 20, "dog": 20, "emu": 20}


def test_samples_are_drawn_as_a_model_gets_them(photos: Path) -> None:
    done = survey(photos, "--output", "samples.png", "--img-size", "24", "--in-chans", "1")
    assert done.code == 0 and "samples: samples.png" in done.err
    with Image.open(photos.parent / "samples.png") as drawn:
        assert drawn.width > drawn.height > 100
    wrong = survey(photos, "--output", "samples.pdf")
    assert wrong.code == 2 and "must end in one of .png" in wrong.err
