"""A run from configuration to files, on embedded and on real images."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor

import maskbench
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.errors import UsageError
from maskbench.record import RunRecord, read_record
from maskbench.runs.plan import load_data, make_plan, training_splits
from maskbench.runs.run import run, run_all
from maskbench.strategy import REGISTRY
from maskbench.training.data_order import epoch_order
from tests.helpers.tiny_run import TINY_SETTINGS, tiny_config


def without_cost(record: RunRecord) -> dict[str, float]:
    return {name: value for name, value in record.metrics.items() if not name.startswith("cost/")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    config = tiny_config(tmp_path_factory.mktemp("results"), "gmml")
    return run(config), make_plan(config).folder


def test_record_holds_what_the_contract_names(done: tuple[RunRecord, Path]) -> None:
    record, folder = done
    assert read_record(folder / "record.json") == record
    assert record.run_id == folder.name
    assert record.run_id.startswith("gmml-")
    assert record.run_id.endswith("-s0")
    assert record.status == "complete"
    accuracies = {f"{probe}/top1/{pooling}" for probe in ("knn", "linear") for pooling in ("cls", "mean")}
    costs = {"images_per_s", "model_images_per_s", "mask_ms", "mask_share", "data_wait_share", "peak_memory_mib"}
    costs |= {"gflops_per_image", "wall_s"}
    assert set(record.metrics) >= accuracies | {f"cost/{cost}" for cost in costs}
    assert all(0 <= record.metrics[name] <= 1 for name in accuracies)
    assert record.metrics["cost/model_images_per_s"] >= record.metrics["cost/images_per_s"] > 0
    assert 0 < record.metrics["cost/mask_share"] < 1
    assert record.strategy["name"] == "gmml"
    assert record.strategy["parameters"]["fill"] == "noise"
    assert record.strategy["distribution"].startswith("maskbench ")
    assert record.dataset["sizes"] == {"train": 300, "validation": 30, "test": 2000}
    assert record.protocols == {"knn": 1, "linear": 2}
    assert 0.3 < record.diagnostics["realised_ratio_mean"] < 0.75
    assert record.diagnostics["realised_ratio_sd"] > 0
    assert [row["epoch"] for row in record.curve] == [1, 2]
    assert 0 <= record.curve[-1]["online/knn/top1/mean"] <= 1
    assert set(record.chosen) == {"linear/decay/cls", "linear/decay/mean"}
    assert record.environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record.environment["precision"] == "fp32"
    assert "auto" not in json.dumps(record.config)


def test_files_of_a_run(done: tuple[RunRecord, Path]) -> None:
    record, folder = done
    names = {"record.json", "config.yaml", "metrics.csv", "predictions.npz", "encoder.safetensors", "masks.png"}
    assert {path.name for path in folder.iterdir()} == names
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in record.curve]
    with np.load(folder / "predictions.npz") as predictions:
        agreement = (predictions["linear/mean"] == predictions["labels"]).mean()
    assert agreement == pytest.approx(record.metrics["linear/top1/mean"])
    with Image.open(folder / "masks.png") as picture:
        assert picture.width > 300


def test_saved_encoder_loads_strictly_into_timm(done: tuple[RunRecord, Path]) -> None:
    record, folder = done
    model = timm.create_model(record.model["name"], **record.model["arguments"])
    model.load_state_dict(load_file(folder / "encoder.safetensors"), strict=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == record.model["encoder_parameters"]
    with safe_open(folder / "encoder.safetensors", "pt") as file:
        assert file.metadata()["run_id"] == record.run_id


def test_load_encoder(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    _, folder = done
    encoder = maskbench.load_encoder(folder)
    assert not encoder.training
    assert encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 32)
    with pytest.raises(UsageError, match="is not the folder of a finished run"):
        maskbench.load_encoder(tmp_path)


def test_run_from_python(tmp_path: Path) -> None:
    settings = {**TINY_SETTINGS, "strategy": "gmml:fill=zeros", "output": str(tmp_path)}
    record = maskbench.run(settings)
    assert record.strategy["parameters"]["fill"] == "zeros"
    results = maskbench.load_results(tmp_path)
    assert results["run_id"].tolist() == [record.run_id]
    assert callable(maskbench.run), "no module of the package takes the name"


def test_config_yaml_repeats_the_run(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    import yaml

    record, folder = done
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    again = run(parse_config({**settings, "output": str(tmp_path)}))
    assert again.run_id == record.run_id
    assert without_cost(again) == without_cost(record)
    assert again.curve[-1]["loss"] == record.curve[-1]["loss"]


@pytest.mark.parametrize("strategy", ["random", "attmask-high", "zoom-in-mask"])
def test_same_numbers_twice_and_others_with_another_seed(tmp_path: Path, strategy: str) -> None:
    one, two = (run(tiny_config(tmp_path / name, strategy)) for name in "ab")
    assert without_cost(one) == without_cost(two)
    assert one.diagnostics == two.diagnostics
    other = run(tiny_config(tmp_path / "c", strategy, seed=1))
    assert without_cost(other) != without_cost(one)


def test_a_run_that_is_done_is_read_not_repeated(tmp_path: Path) -> None:
    first = run(tiny_config(tmp_path))
    path = make_plan(tiny_config(tmp_path)).folder / "record.json"
    before = path.stat().st_mtime_ns
    assert run(tiny_config(tmp_path)) == first
    assert path.stat().st_mtime_ns == before
    repeated = run(tiny_config(tmp_path), force=True)
    assert path.stat().st_mtime_ns > before
    assert without_cost(repeated) == without_cost(first)


def test_controls_are_ordinary_runs(tmp_path: Path) -> None:
    floor = run(tiny_config(tmp_path, "none", objective="random-init"))
    labelled = run(tiny_config(tmp_path, "none", objective="supervised"))
    assert floor.run_id.startswith("none-")
    assert floor.curve == []
    assert "cost/images_per_s" not in floor.metrics
    assert labelled.metrics["cost/images_per_s"] > 0
    # A control does not depend on the regime of the strategies beside it.
    matched = make_plan(tiny_config(tmp_path, "none", objective="random-init", regime="matched", ratio=0.6))
    assert matched.run_id == floor.run_id


def test_validation_labels_that_choose_for_the_probes_never_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other labels of the validation images leave the supervised control's weights as they are."""
    config = tiny_config(tmp_path / "one", "none", objective="supervised", probes=["knn"])
    plan, splits = load_data(make_plan(config))
    assert isinstance(splits.validation, Tensor)
    labels = splits.train.labels.clone()
    labels[splits.validation] = (labels[splits.validation] + 1) % len(splits.classes)
    changed = replace(splits, train=replace(splits.train, labels=labels))
    order = epoch_order(config.seed, 0, training_splits(plan, splits).train.labels)
    assert len(order) == len(splits.fit) == len(splits.train) - len(splits.validation)
    weights = []
    for folder, data in (("one", splits), ("two", changed)):
        monkeypatch.setattr("maskbench.runs.plan.load_dataset", lambda *_, data=data: data)
        record = run(config.model_copy(update={"output": str(tmp_path / folder)}))
        weights.append(load_file(tmp_path / folder / "runs" / record.run_id / "encoder.safetensors"))
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_what_makes_a_run_another_run(tmp_path: Path) -> None:
    base = make_plan(tiny_config(tmp_path)).run_id
    for same in ({"output": "elsewhere"}, {"system__device": "auto"}):
        assert make_plan(tiny_config(tmp_path, **same)).run_id == base
    for other in ({"train__lr": 1e-4}, {"strategy": "random:ratio=0.5"}, {"data__limit": 200}, {"probes": "knn"}):
        assert make_plan(tiny_config(tmp_path, **other)).run_id != base
    assert make_plan(tiny_config(tmp_path, seed=3)).run_id == base.replace("-s0", "-s3")


def test_regimes(tmp_path: Path) -> None:
    paper = make_plan(tiny_config(tmp_path, "attmask-high")).strategy
    matched = make_plan(tiny_config(tmp_path, "attmask-high", regime="matched")).strategy
    assert paper.parameters["ratio"] == [0.1, 0.5]
    assert matched.parameters["ratio"] == 0.75
    assert matched.parameters["masked"] == 1
    explicit = make_plan(tiny_config(tmp_path, "attmask-high:ratio=0.4", regime="matched", ratio=0.6))
    assert explicit.strategy.parameters["ratio"] == 0.4, "what is said of one strategy beats what is said of all"
    assert explicit.config.strategy.parameters == explicit.strategy.parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "none"}, "leaves mae nothing to recover"),
        ({"objective": "supervised"}, "is a control: it goes with strategy none"),
        ({"strategy": "gmml:align=patch", "model__patch_size": 16}, "raise largest or use align=pixel"),
        ({"strategy": "random:ratio=0.999"}, "hides all 16 patches; lower its ratio"),
        ({"strategy": "attmask-high", "model__kwargs": {"class_token": False, "global_pool": "avg"}}, "class token"),
        ({"output": "/dev/null/x"}, "cannot write to /dev/null/x"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, changes: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=message):
        run_all([tiny_config(tmp_path, **{"strategy": "random", **changes})])
    assert list(tmp_path.iterdir()) == []


def test_divergence_is_a_record(tmp_path: Path) -> None:
    record = run(tiny_config(tmp_path, train__lr=1e30))
    assert record.status == "diverged"
    assert record.error is not None
    assert "lower the learning rate" in record.error
    assert not any("top1" in name for name in record.metrics)


def test_a_batch_larger_than_the_data_shrinks(tmp_path: Path) -> None:
    record = run(tiny_config(tmp_path, data__limit=40, train__batch_size=64))
    assert record.config["train"]["batch_size"] == 40


def test_one_channel_not_square_in_any_strategy(tmp_path: Path) -> None:
    changes = {"data__img_size": "16x24", "data__in_chans": 1, "train__epochs": 1}
    for strategy in ("random", "gmml", "attmask-high", "zoom-in-mask"):
        record = run(tiny_config(tmp_path, strategy, **changes))
        assert record.status == "complete"
        assert record.model["arguments"]["img_size"] == [16, 24]


def test_embedded_data_pre_training_beats_random_init(tmp_path: Path) -> None:
    """End to end on `shapes`: half a minute of pre-training gives features that a linear probe reads better."""
    changes = {"data__img_size": 32, "data__limit": 4000, "train__epochs": 8, "train__online_every": 8}
    changes |= {"model__kwargs": {"embed_dim": 64, "depth": 3, "num_heads": 2}}
    trained = run(tiny_config(tmp_path, "random", **changes))
    floor = run(tiny_config(tmp_path, "none", objective="random-init", **changes))
    assert trained.metrics["linear/top1/mean"] > floor.metrics["linear/top1/mean"] + 0.04


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels, as image folders."""
    root = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / ("test" if number % 5 == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8)).save(folder / f"{number:04}.png")
    return root


def test_real_digits_end_to_end(tmp_path: Path, digits: Path) -> None:
    changes = {
        "data.dataset": str(digits),
        "data.img_size": 16,
        "data.in_chans": 1,
        "data.flip": 0.0,
        "data.crop_scale": [0.6, 1.0],
        "model.patch_size": 4,
        "model.kwargs": {"embed_dim": 64, "depth": 3, "num_heads": 2},
        "train.epochs": 30,
        "train.warmup_epochs": 3,
        "train.batch_size": 64,
        "train.online_every": 30,
        "system.precision": "fp32",
        "output": str(tmp_path),
    }
    settings = merge(load_preset("quick"), changes)
    floor = run(parse_config(merge(settings, {"strategy": "none", "objective": "random-init"})))
    trained = run(parse_config(merge(settings, {"strategy": "random"})))
    assert floor.dataset["sizes"] == {"train": 1437, "validation": 144, "test": 360}
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]
    # 360 test digits: a share of 0.9 has a standard error of 1.6 points.
    assert trained.metrics["linear/top1/mean"] > 0.85
    assert trained.metrics["knn/top1/mean"] > floor.metrics["knn/top1/mean"] - 0.05


@pytest.mark.parametrize("name", [name for name in REGISTRY.names() if name != "none"])
def test_every_strategy_runs_end_to_end(tmp_path: Path, name: str) -> None:
    settings = {"data__limit": 64, "train__batch_size": 32, "train__epochs": 1, "train__warmup_epochs": 0}
    record = run(tiny_config(tmp_path, name, **settings, probes="knn"))
    assert record.status == "complete"
    assert 0 < record.diagnostics["realised_ratio_mean"] <= 1
    assert record.strategy["distribution"].startswith("maskbench ")
    assert (tmp_path / "runs" / record.run_id / "masks.png").stat().st_size > 1000
