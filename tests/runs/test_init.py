"""Training that starts from weights: a run's, a file's or timm's."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models._manipulate import adapt_input_conv

from maskbench.models.pretrained import adapt_stem
from maskbench.training.forgetting import READING, sign_of_forgetting
from tests.helpers.command_line import maskbench
from tests.helpers.image_files import write_folders

TRAIN = ["--epochs", "1", "--warmup-epochs", "0", "--batch-size", "20", "--device", "cpu", "--precision", "fp32",
         "--probes", "knn", "--dataset", "./photos"]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_the_stem_is_adapted_as_timm_does_it(channels: int) -> None:
    weight = torch.randn(8, 3, 4, 4)
    assert torch.allclose(adapt_stem(weight, channels), adapt_input_conv(channels, weight), atol=1e-6)
    assert adapt_stem(weight, 3) is weight


def test_a_grey_image_is_read_as_its_colour_version_was() -> None:
    weight, grey = torch.randn(8, 3, 4, 4), torch.rand(2, 1, 8, 8)
    colour = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight, stride=4)
    assert torch.allclose(torch.nn.functional.conv2d(grey, adapt_stem(weight, 1), stride=4), colour, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs, and the weights of a small timm model of 16 px, as a file."""
    write_folders(tmp_path / "photos", "train", 0, 60, 24, 24)
    write_folders(tmp_path / "photos", "test", 60, 30, 24, 24)
    torch.manual_seed(5)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=64, depth=2, num_heads=1,
                            num_classes=0)  # fmt: skip
    save_file(vit.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path


def records(folder: Path, output: str) -> dict[str, dict]:  # type: ignore[type-arg]
    """By the row's name."""
    found = {}
    for path in folder.glob(f"{output}/runs/*/record.json"):
        record = json.loads(path.read_text())
        objective = record["objective"]["name"]
        found[record["strategy"]["name"] if objective == "mae" else objective] = record
    return found


def test_training_starts_from_what_probe_says_of_the_weights(folder: Path) -> None:
    """With images of another size and number of channels: step 0, the row of the weights as they came, and `probe`."""
    other = ["--img-size", "24", "--in-chans", "1"]
    done = maskbench("run", "--init", "weights.safetensors", *other, *TRAIN, "--output", "out", "--lr", "1e-6",
                     "--set", "train.online_every=1", cwd=folder)  # fmt: skip
    assert done.code == 0, done.err
    assert "weights (external)" in done.out and "random-init" in done.out
    probed = maskbench("probe", "weights.safetensors", *other, "--dataset", "./photos", "--probes", "knn", "--device",
                       "cpu", "--precision", "fp32", "--output", "probed", cwd=folder)  # fmt: skip
    assert probed.code == 0, probed.err
    ours, theirs = records(folder, "out"), records(folder, "probed")["external"]
    assert {name: value for name, value in ours["external"]["metrics"].items() if name.startswith("knn")} == {
        name: value for name, value in theirs["metrics"].items() if name.startswith("knn")
    }
    curve = ours["random"]["curve"]
    assert [row["epoch"] for row in curve] == [0, 1] and READING in curve[0]
    assert ours["random"]["config"]["model"]["init"]["digest"] == ours["external"]["objective"]["parameters"]["digest"]
    assert ours["random-init"]["config"]["model"]["init"] is None
    run = folder / "out/runs" / ours["random"]["run_id"]
    trained, given = load_file(run / "encoder.safetensors"), load_file(folder / "weights.safetensors")
    assert torch.allclose(trained["blocks.0.mlp.fc1.weight"], given["blocks.0.mlp.fc1.weight"], atol=1e-4)
    assert trained["patch_embed.proj.weight"].shape == (64, 1, 4, 4)
    again = maskbench("rerun", str(run), "--dataset", "./photos", cwd=folder)
    assert again.code == 0, again.err


def test_other_weights_are_another_run_and_a_changed_file_is_refused(folder: Path) -> None:
    command = ("run", "--init", "weights.safetensors", *TRAIN, "--output", "out")
    assert maskbench(*command, cwd=folder).code == 0
    first = records(folder, "out")["random"]
    changed = {name: value + 0.01 for name, value in load_file(folder / "weights.safetensors").items()}
    save_file(changed, folder / "weights.safetensors")
    assert maskbench(*command, cwd=folder).code == 0
    ids = {path.name for path in folder.glob("out/runs/random-*")}
    assert len(ids) == 2 and first["run_id"] in ids
    config = folder / "out/runs" / first["run_id"] / "config.yaml"
    refused = maskbench("run", "--config", str(config), "--output", "new", cwd=folder)
    assert refused.code == 2 and "weights.safetensors has changed since; name it again" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("weights.safetensors", "--patch-size", "8"), "has patches of 4 px, not 8; drop --patch-size"),
        (("nowhere.safetensors",), "no file or folder nowhere.safetensors"),
        (("photos",), "is not the folder of a finished run"),
    ],
)
def test_weights_that_cannot_serve_are_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = maskbench("run", "--init", *arguments, *TRAIN, "--output", "out", cwd=folder)
    assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1
    assert not (folder / "out").exists()


def test_falling_below_the_start_is_said() -> None:
    """0.8 of 1,000 images against 0.7 is more than chance, against 0.79 it is not; without a row of epoch 0 there is no
    start."""
    start, low, near = ({"epoch": epoch, READING: value} for epoch, value in ((0, 0.8), (1, 0.7), (1, 0.79)))
    assert "below the 80.0 % of the weights as they came" in sign_of_forgetting([start, low], 1000)[0]
    assert sign_of_forgetting([start, near], 1000) == []
    assert sign_of_forgetting([{**start, "epoch": 1}, low], 1000) == []
