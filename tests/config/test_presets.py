"""Presets of the papers' settings: each runs as it stands, on fewer images and a smaller model."""

from pathlib import Path

import pytest

from maskbench.config.resolve import load_preset, merge, parse_config, preset_names
from maskbench.runs.run import run
from tests.helpers.image_files import write_folders

PUBLISHED = ("attmask-dino", "attmask-high-ibot", "attmask-hint-ibot", "barlow-twins", "beyond-masking", "gmml")
PUBLISHED += ("l-dae", "mae", "sbam", "simmim", "um-mae")
FEWER = {  # the same code on less: what is left of a parameter that a preset gives
    "prototypes": 64, "hidden": 32, "bottleneck": 16, "width": 32, "decoder_width": 32, "decoder_depth": 1,
    "decoder_heads": 2, "local_crops": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_train_at_the_size_that_they_say(name: str, tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", "train", 0, 12, 240, 250)
    write_folders(tmp_path / "photos", "val", 12, 6, 240, 250)
    settings = load_preset(name)
    given = settings["objective"]["parameters"]
    objective = {**settings["objective"], "parameters": {**given, **{k: v for k, v in FEWER.items() if k in given}}}
    changes = {
        "objective": objective, "data.dataset": str(tmp_path / "photos"), "output": str(tmp_path / "out"),
        "model.kwargs": {**settings["model"]["kwargs"], "embed_dim": 64, "depth": 2, "num_heads": 2},
        "train.epochs": 2, "train.batch_size": 4, "train.warmup_epochs": 1, "system.precision": "fp32", "probes": "knn",
    }  # fmt: skip
    record = run(parse_config(merge(settings, changes)))
    assert record.status == "complete" and record.config["data"]["img_size"] == [224, 224]
    assert f"{name}-32" in preset_names()


def test_a_preset_may_stand_on_another() -> None:
    """tiny-imagenet-short says what differs from cifar10-short, and all else is that preset's."""
    own, base = (parse_config(load_preset(name)) for name in ("tiny-imagenet-short", "cifar10-short"))
    assert (own.data.img_size, own.model.patch_size, own.data.dataset) == ((64, 64), 8, "./tiny-imagenet")
    assert (own.train, own.objective, own.ratio, own.data.limit) == (
        base.train, base.objective, base.ratio, base.data.limit
    )  # fmt: skip
