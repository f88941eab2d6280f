"""Encoders with a description beside their weights: it may choose a model's shape, and neither code nor an address."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from maskbench import load_encoder
from maskbench.config.resolve import parse_config
from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.encoder import build_encoder
from maskbench.models.encoder_sources import read_encoder
from maskbench.models.timm_models import create_timm_model, ensure_known_model
from maskbench.runs.export import export
from tests.helpers.records import record, write_records

TINY, GRID = "vit_tiny_patch16_224", Grid(4, 4, 4)
ARGUMENTS: dict[str, Any] = {
    "img_size": [16, 16], "patch_size": 4, "in_chans": 3, "num_classes": 0, "fc_norm": False,
    "embed_dim": 32, "depth": 2, "num_heads": 2,
}  # fmt: skip
MOMENTS = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"checkpoint_path": "PICKLE"}, "unknown argument in .*: 'checkpoint_path'"),
    ({"pretrained": True}, "unknown argument in .*: 'pretrained'"),
    ({"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/"}}, "unknown argument in .*: 'pretrained_cfg_overlay'"),
    ({"depth": 10_000_000}, "depth=10000000 should be less than or equal to 512"),
    ({"depth": 500}, "describes depth=500, its weights have 2"),
    ({"embed_dim": 8192}, "describes embed_dim=8192, its weights have 32"),
    ({"mlp_ratio": 64.0}, "describes mlp_ratio=64.0, its weights have 4.0"),
    ({"reg_tokens": 1000}, "describes reg_tokens=1000, its weights have 0"),
    ({"class_token": False}, "describes class_token=False, its weights have True"),
    ({"qkv_bias": False}, "describes qkv_bias=False, its weights have True"),
    ({"img_size": [4096, 4096]}, "describes patches=1048576"),
    ({"patch_size": 8}, "describes patch"),
    ({"in_chans": 64}, "describes in_chans=64, its weights have 3"),
    ({"num_heads": 3}, "num_heads|divisible"),
    ({"fc_norm": True}, "fc_norm=True should be False"),
]


class Evil:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {os.environ['MASKBENCH_TEST_TRACE']}",)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that unpickling `tmp_path/evil.pth` would leave."""
    monkeypatch.setenv("MASKBENCH_TEST_TRACE", str(tmp_path / "ran"))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    return tmp_path / "ran"


def describe(tmp_path: Path, changes: dict[str, Any], name: str = TINY) -> dict[str, Any]:
    evil = {key: str(tmp_path / "evil.pth") if value == "PICKLE" else value for key, value in changes.items()}
    return {"name": name, "arguments": {**ARGUMENTS, **evil}, "encoder_parameters": 1, "head_parameters": 0}


def make_run(tmp_path: Path, model: dict[str, Any]) -> Path:
    """A finished run whose record describes `model`, with the weights of a small one."""
    stored = record("random", model=model)
    stored.dataset.update(MOMENTS)
    folder = write_records(tmp_path / "out", stored) / "runs" / stored.run_id
    state = timm.create_model(TINY, **ARGUMENTS).state_dict()
    save_file(state, folder / "encoder.safetensors")
    header = {"model": json.dumps(model), "dataset": json.dumps(MOMENTS)}
    save_file(state, tmp_path / "alone.safetensors", header)
    return folder


def test_what_maskbench_writes_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path, describe(tmp_path, {}))
    weights = timm.create_model(TINY, **ARGUMENTS).state_dict()
    assert {name: value.shape for name, value in load_encoder(run).state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
    for source in (run, tmp_path / "alone.safetensors"):
        encoder = read_encoder(str(source))
        assert (encoder.depth, encoder.width, encoder.heads, encoder.kwargs["depth"]) == (2, 32, 2, 2)
        assert encoder.std is not None and encoder.std.tolist() == pytest.approx([0.2, 0.2, 0.2])
    assert (export(run) / "model.safetensors").is_file()


@pytest.mark.parametrize(("changes", "reason"), HOSTILE, ids=str)
def test_a_description_runs_no_code_and_takes_no_memory(
    tmp_path: Path, changes: dict[str, Any], reason: str, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, describe(tmp_path, changes))
    sizes: list[int] = []
    create = timm.create_model

    def watched(*arguments: Any, **named: Any) -> Any:
        model = create(*arguments, **named)
        sizes.append(sum(value.numel() for value in model.parameters()))
        return model

    monkeypatch.setattr(timm, "create_model", watched)
    doors = (load_encoder, export, lambda run: read_encoder(str(run)), lambda _: read_encoder(str(alone)))
    alone = tmp_path / "alone.safetensors"
    for door in doors:
        with pytest.raises(UsageError, match=reason) as refused:
            door(run)
        assert "\n" not in str(refused.value)
    assert not trace.exists()
    assert max(sizes, default=0) < 2_000_000


@pytest.mark.parametrize(
    "header", ["[]", "{", '{"name": "x"}', '{"name": ' + "[" * 100_000, '{"name": 1, "arguments": 2}']
)
def test_a_header_that_describes_nothing_is_one_line(tmp_path: Path, header: str) -> None:
    state = timm.create_model(TINY, **ARGUMENTS).state_dict()
    header = header if header.startswith('{"name": ') else '{"name": ' + header
    save_file(state, tmp_path / "a.safetensors", {"model": header})
    with pytest.raises(UsageError, match="a.safetensors"):
        read_encoder(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    "moments", ['{"std": [0, 1, 1]}', '{"mean": [1]}', '{"mean": "x"}', '{"mean": [NaN, 1, 1]}', "3 3"]
)
def test_moments_are_numbers_of_each_channel(tmp_path: Path, moments: str) -> None:
    state = timm.create_model(TINY, **ARGUMENTS).state_dict()
    header = {"model": json.dumps(describe(tmp_path, {})), "dataset": moments}
    save_file(state, tmp_path / "a.safetensors", header)
    with pytest.raises(UsageError, match="mean|std|header"):
        read_encoder(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("name", ["blocks.99999999.norm1.weight", "blocks.x.norm1.weight", "pos_embed"])
def test_weights_of_another_kind_are_named(tmp_path: Path, name: str) -> None:
    state = timm.create_model(TINY, **ARGUMENTS).state_dict()
    state[name] = torch.ones(7, 7)
    save_file(state, tmp_path / "a.safetensors", {"model": json.dumps(describe(tmp_path, {}))})
    with pytest.raises(UsageError, match=name):
        read_encoder(str(tmp_path / "a.safetensors"))


NAMES = ["hf-hub:somebody/evil", "hf_hub:somebody/evil", "local-dir:/tmp", "timm/vit_tiny_patch16_224", f"{TINY}.evil",
         f"{TINY}.hf-hub:a/b", "resnet50.a:b", "../vit", "", "x" * 10_000]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_timm_does_not_register_is_refused_before_anything_is_fetched(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("reached timm"))
    for refuse in (
        ensure_known_model,
        lambda name: create_timm_model(name, {}),
        lambda name: build_encoder(name, GRID, 3, {}, plain_attention=True),
    ):
        with pytest.raises(UsageError, match="unknown (model|weights)"):
            refuse(name)


def test_a_configuration_reaches_timm_by_the_same_door(trace: Path) -> None:
    with pytest.raises(UsageError, match="'checkpoint_path'"):
        build_encoder(TINY, GRID, 3, {"checkpoint_path": str(trace.parent / "evil.pth")}, plain_attention=True)
    with pytest.raises(UsageError, match="'checkpoint_path'"):
        parse_config({"model": {"kwargs": {"checkpoint_path": str(trace.parent / "evil.pth")}}})
    assert not trace.exists()
