"""Pre-training on one data set, with or without labels, and probing on another."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from maskbench import data
from maskbench.analysis.results import group_of
from maskbench.errors import UsageError
from maskbench.runs.plan import load_data, make_plan, probe_splits
from maskbench.runs.rerun import compare_numbers
from maskbench.runs.run import check_run, run
from tests.helpers.command_line import maskbench
from tests.helpers.image_files import picture, png, write_folders, write_parquet
from tests.helpers.tiny_run import tiny_config


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def photos(root: Path, *inside: str, count: int = 70) -> Path:
    for number in range(count):
        path = root.joinpath(*inside) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, 16, 16))
    return root


@pytest.mark.parametrize("inside", [(), ("train",), ("2024", "june")], ids=["flat", "train", "nested"])
def test_a_folder_without_classes(tmp_path: Path, inside: tuple[str, ...]) -> None:
    splits = data.load_dataset(str(photos(tmp_path / "photos", *inside)), (16, 16), 3)
    assert splits.classes == () and splits.sizes == {"train": 70, "validation": 7, "test": 0}
    assert (splits.train.pixels[4].permute(1, 2, 0).numpy() == np.asarray(picture(4, 16, 16))).all()


def test_parquet_without_labels(tmp_path: Path) -> None:
    rows = [{"bytes": png(number), "path": ""} for number in range(30)]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "train.parquet")
    splits = data.load_dataset(str(tmp_path), (12, 12), 3)
    assert splits.classes == () and splits.sizes == {"train": 30, "validation": 3, "test": 0}


def test_probed_elsewhere(tmp_path: Path) -> None:
    """Trained on photographs without labels, probed on shapes, with the normalisation that the encoder knows."""
    source = str(photos(tmp_path / "photos"))
    settings = {"data__dataset": source, "data__limit": None, "data__probe_dataset": "shapes", "train__epochs": 1}
    config = tiny_config(tmp_path / "out", **settings)
    record = run(config)
    assert record.status == "complete"
    assert record.dataset["name"] == "photos" and record.dataset["sizes"]["train"] == 70
    assert record.dataset["probed"]["name"] == "shapes" and record.dataset["probed"]["sizes"]["test"] == 2000
    assert record.metrics["knn/top1/mean"] > 0.13, "ten classes; chance has a sd of 0.7 points"
    assert "online/knn/top1/mean" in record.curve[-1]
    assert ", probed on shapes (" in group_of(record)
    with np.load(tmp_path / "out" / "runs" / record.run_id / "predictions.npz") as stored:
        assert len(stored["labels"]) == 2000
    planned, splits = load_data(make_plan(config))
    asked = probe_splits(planned, splits)
    assert torch.equal(asked.mean, splits.mean) and asked.name == "shapes"
    pixels = splits.train.pixels.double() / 255
    torch.testing.assert_close(asked.mean.double(), pixels.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)


def test_another_data_set_is_another_run(tmp_path: Path) -> None:
    one, other = (make_plan(tiny_config(tmp_path, data__probe_dataset=name)).run_id for name in (None, "./other"))
    assert one != other


def test_what_cannot_be_probed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    base = ("run", "--dataset", "./photos", "--img-size", "16", "--patch-size", "4")
    done = maskbench(*base, cwd=tmp_path)
    assert done.code == 2 and "the images of photos have no labels to probe with (knn, linear): sort the" in done.err
    assert "; or give --probe-dataset, or --probes features" in done.err
    assert done.err.strip().count("\n") == 0 and not (tmp_path / "results").exists()
    with pytest.raises(UsageError, match="supervised needs labels, which photos has not"):
        check_run(tiny_config(tmp_path / "out", "none", objective="supervised", data__dataset=str(tmp_path / "photos"),
                     data__limit=None, data__probe_dataset="shapes"))  # fmt: skip


def test_normalisation_can_be_given(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, data__mean=[0.5, 0.4, 0.3], data__std=[0.2, 0.2, 0.2])
    _, splits = load_data(make_plan(config))
    assert splits.mean.tolist() == pytest.approx([0.5, 0.4, 0.3]) and splits.std.tolist() == pytest.approx([0.2] * 3)
    with pytest.raises(UsageError, match="a number for each of the 3 channels"):
        load_data(make_plan(tiny_config(tmp_path, data__mean=[0.5])))


def test_labels_of_the_training_data_do_not_matter_elsewhere(tmp_path: Path) -> None:
    """The same images in class folders and in none give the same encoder."""
    write_folders(tmp_path / "sorted", "train", 0, 70, 16, 16)
    write_folders(tmp_path / "sorted", "test", 100, 6, 16, 16)
    same = dict.fromkeys(("train__epochs",), 1) | {"data__limit": None, "data__probe_dataset": "shapes"}
    flat = tmp_path / "flat"
    flat.mkdir()
    files = sorted((tmp_path / "sorted" / "train").rglob("*.png"))
    for number, file in enumerate(files):  # in the order in which class folders are read
        (flat / f"{number:03}.png").write_bytes(file.read_bytes())
    one, two = (
        run(tiny_config(tmp_path / "out", data__dataset=str(tmp_path / name), **same)) for name in ("sorted", "flat")
    )
    assert [row["loss"] for row in one.curve] == [row["loss"] for row in two.curve]
    assert one.metrics["linear/top1/mean"] == two.metrics["linear/top1/mean"]


def test_the_same_data_in_whole_are_other_data(tmp_path: Path) -> None:
    """Trained on few of the images and probed on all of them."""
    write_folders(tmp_path / "sorted", "train", 0, 70, 16, 16)
    write_folders(tmp_path / "sorted", "test", 100, 6, 16, 16)
    source = str(tmp_path / "sorted")
    record = run(tiny_config(tmp_path / "out", data__dataset=source, data__probe_dataset=source, data__limit=30,
                      train__epochs=1))  # fmt: skip
    assert record.dataset["sizes"]["train"] == 30 and record.dataset["probed"]["sizes"]["train"] == 70
    assert "probed on sorted" in group_of(record)


def test_a_run_that_was_probed_elsewhere_is_repeated(tmp_path: Path) -> None:
    source = str(photos(tmp_path / "photos"))
    settings = {"data__dataset": source, "data__limit": None, "data__probe_dataset": "shapes", "train__epochs": 1}
    record = run(tiny_config(tmp_path / "out", **settings))
    other = record.model_copy(update={"environment": {**record.environment, "threads": 99}})
    verdict = compare_numbers(other, record)
    assert verdict.holds
    claim = next(claim for claim in verdict.checks if claim.name == "knn/top1/mean")
    assert 0.005 < claim.high - claim.low < 0.05, "of 2,000 test images"


@pytest.mark.parametrize(
    "nested", [("lab", "train", "cat"), ("lab", "test_images"), ()], ids=["train", "test", "nothing"]
)
def test_a_folder_around_a_data_set_is_no_training_set(tmp_path: Path, nested: tuple[str, ...]) -> None:
    """Or test images would be trained on."""
    photos(tmp_path / "more", "other")
    (tmp_path / "more" / "train").mkdir() if not nested else photos(tmp_path / "more", *nested)
    with pytest.raises(UsageError, match="no training split in"):
        data.load_dataset(str(tmp_path / "more"), (16, 16), 3)


def test_images_without_labels_can_be_asked_for_features_alone(tmp_path: Path) -> None:
    """Of the held-out tenth of the training images: there are no others."""
    source = str(photos(tmp_path / "photos"))
    settings = {"data__dataset": source, "data__limit": None, "train__epochs": 1, "probes": "features"}
    record = run(tiny_config(tmp_path / "out", **settings))
    assert record.status == "complete"
    assert {name for name in record.metrics if "cost/" not in name} >= {"features/rank/mean", "features/alignment/mean"}
    assert "online/rank/mean" in record.curve[-1] and "online/knn/top1/mean" not in record.curve[-1]
    assert not (tmp_path / "out" / "runs" / record.run_id / "predictions.npz").exists()
    with pytest.raises(UsageError, match="photos have no labels to probe with .knn.:"):
        check_run(tiny_config(tmp_path / "out", **{**settings, "probes": "features,knn"}))


def test_the_label_column_is_of_the_data_that_are_probed(tmp_path: Path) -> None:
    source = str(photos(tmp_path / "photos"))
    for split, first in (("train", 0), ("test", 50)):
        write_parquet(tmp_path / "rows" / f"{split}.parquet", first, 12, label="target")
    settings = {"data__dataset": source, "data__limit": None, "data__probe_dataset": str(tmp_path / "rows")}
    plan, splits = load_data(make_plan(tiny_config(tmp_path, **settings, data__label_column="target")))
    assert splits.classes == () and probe_splits(plan, splits).sizes["test"] == 12
    with pytest.raises(UsageError, match="columns of train.parquet are image, target: name that of the labels with"):
        probe_splits(*load_data(make_plan(tiny_config(tmp_path, **settings))))
