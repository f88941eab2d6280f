"""Encoders from elsewhere: every layout gives timm's tokens, whatever is no plain vision transformer one line."""

import os
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import maskbench
from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.encoder import Encoder, build_encoder
from maskbench.models.encoder_sources import read_encoder
from maskbench.models.pretrained import PretrainedEncoder, load_weights, model_settings
from maskbench.models.weight_files import read_safetensors, read_torch_file
from maskbench.record import RunRecord
from maskbench.runs.plan import make_plan
from maskbench.runs.run import run
from tests.helpers.tiny_run import tiny_config

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
State = dict[str, Tensor]


def tiny_vit(seed: int = 0, **kwargs: Any) -> VisionTransformer:
    """Four by four patches, 32 wide, 2 deep; no weight is at its initial value."""
    torch.manual_seed(seed)
    vit = timm.create_model("vit_tiny_patch16_224", **{**TINY, **kwargs})
    with torch.no_grad():
        for value in vit.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return vit.eval()


def images(size: tuple[int, int] = (16, 16), channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def built(foreign: PretrainedEncoder, grid: Grid, **settings: Any) -> Encoder:
    """As a run would make it."""
    model = model_settings(foreign, **settings)
    assert model["patch_size"] == grid.patch
    encoder = build_encoder(model["name"], grid, foreign.in_chans, model["kwargs"], plain_attention=True)
    load_weights(encoder.vit, foreign.state, foreign.grid)
    return encoder.eval()


@torch.no_grad()
def tokens(encoder: Encoder, pixels: Tensor) -> Tensor:
    encoded = encoder(pixels)
    return torch.cat([encoded.prefix, encoded.patches], 1)


def assert_same(encoder: Encoder, vit: VisionTransformer, pixels: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(tokens(encoder, pixels), vit.forward_features(pixels), atol=1e-5, rtol=0)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def renamed(state: State, old: str, new: str) -> State:
    return {name.replace(old, new): value for name, value in state.items()}


def in_training(**content: Any) -> dict[str, Any]:
    """What a checkpoint holds beside weights."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight]).state_dict()
    return {**content, "optimizer": optimizer, "epoch": 9, "scaler": {"scale": 65536.0}, "args": Namespace(lr=1e-3)}


def head(width: int = 32) -> State:
    return {"head.mlp.0.weight": torch.ones(8, width), "head.last_layer.weight_g": torch.ones(4, 1)}


def mae(state: State) -> Any:
    decoder = {"decoder_embed.weight": torch.ones(8, 32), "decoder_pos_embed": torch.ones(1, 17, 8)}
    decoder |= {"decoder_blocks.0.norm1.weight": torch.ones(8), "decoder_pred.bias": torch.ones(48)}
    return in_training(model={**state, **decoder, "mask_token": torch.ones(1, 1, 8)})


def dino(state: State) -> Any:
    student = prefixed({**tiny_vit(1).state_dict()}, "module.backbone.") | prefixed(head(), "module.")
    teacher = prefixed(state, "backbone.") | head()
    return in_training(student=student, teacher=teacher, dino_loss={"center": torch.zeros(1, 4)})


def dino_student(state: State) -> Any:
    return in_training(student=prefixed(state, "module.backbone.") | prefixed(head(), "module."), teacher=None)


def ibot(state: State) -> Any:
    state = renamed(renamed(state, "ls1.gamma", "gamma_1"), "ls2.gamma", "gamma_2")
    teacher = prefixed({**state, "masked_embed": torch.ones(1, 32)}, "backbone.") | head()
    return in_training(teacher=teacher, ibot_loss={"center2": torch.zeros(1, 1, 4)})


def gmml(state: State) -> Any:
    rest = {"module.head_recons.mlp.0.weight": torch.ones(32, 32), "module.head_recons.convTrans.bias": torch.ones(3)}
    return in_training(SiT_model=prefixed(state, "module.backbone.") | rest)


def simmim(state: State) -> Any:
    found = {}
    for name, value in renamed(renamed(state, "ls1.gamma", "gamma_1"), "ls2.gamma", "gamma_2").items():
        if name.endswith("qkv.bias"):
            found[name.replace("qkv.bias", "q_bias")], found[name.replace("qkv.bias", "v_bias")] = (
                value[:32],
                value[64:],
            )
        else:
            found[name] = value
    found["mask_token"] = torch.ones(1, 1, 32)
    rest = {"decoder.0.weight": torch.ones(48, 32, 1, 1), "decoder.0.bias": torch.ones(48)}
    return in_training(model=prefixed(found, "encoder.") | rest)


def barlow(state: State) -> Any:
    rest = {"projector.0.weight": torch.ones(8, 32), "bn.running_mean": torch.ones(8)}
    rest["bn.num_batches_tracked"] = torch.tensor(3)
    return in_training(model=prefixed(prefixed(state, "backbone.") | rest, "module."))


def ijepa(state: State) -> Any:
    """The target encoder is the one that is evaluated (arXiv 2301.08243, appendix A.1)."""
    context = prefixed({**tiny_vit(1).state_dict()}, "module.")
    predictor = {"module.predictor_embed.weight": torch.ones(8, 32)}
    return in_training(encoder=context, predictor=predictor, target_encoder=prefixed(state, "module."), opt={})


def compiled_blocks(state: State) -> Any:
    return {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in state.items()}


def dinov2_chunks(state: State) -> State:
    """Blocks in chunks of one, each with its number in the whole."""
    state = renamed(renamed(state, "blocks.1.", "blocks.1.1."), "blocks.0.", "blocks.0.0.")
    heads = {"dino_head.mlp.0.weight": torch.ones(8, 32), "ibot_head.last_layer.weight_g": torch.ones(4, 1)}
    return prefixed({**state, "mask_token": torch.ones(1, 32)}, "backbone.") | heads


def dinov2(state: State) -> Any:
    return {"teacher": dinov2_chunks(state)}


def dinov2_training(state: State) -> Any:
    student = prefixed(dinov2_chunks({**tiny_vit(1).state_dict()}), "student.")
    return in_training(model=student | prefixed(dinov2_chunks(state), "teacher."), iteration=3)


LAYOUTS: dict[str, tuple[Callable[[State], Any], str | None]] = {
    "timm": (lambda state: state, None),
    "classifier": (lambda state: {**state, "head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}, None),
    "several processes": (lambda state: in_training(state_dict=prefixed(state, "module.")), "state_dict"),
    "nested": (lambda state: {"model": {"module": state}, "epoch": 3}, "model.module"),
    "mae": (mae, "model"),
    "dino": (dino, "teacher"),
    "dino, student alone": (dino_student, "student"),
    "ibot": (ibot, "teacher"),
    "gmml": (gmml, "SiT_model"),
    "simmim": (simmim, "model"),
    "barlow": (barlow, "model"),
    "i-jepa": (ijepa, "target_encoder"),
    "compiled": (lambda state: prefixed(state, "_orig_mod."), None),
    "compiled, several processes": (lambda state: prefixed(state, "module._orig_mod."), None),
    "compiled blocks": (compiled_blocks, None),
    "dinov2": (dinov2, "teacher"),
    "dinov2, in training": (dinov2_training, "model.teacher"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_tokens_of_timm(layout: str, tmp_path: Path) -> None:
    write, part = LAYOUTS[layout]
    vit = tiny_vit(init_values=0.1 if layout in ("ibot", "simmim") else None)
    if layout == "simmim":
        with torch.no_grad():
            for block in vit.blocks:
                block.attn.qkv.bias[32:64] = 0  # a bias of keys, which that layout has not
    torch.save(write(vit.state_dict()), tmp_path / "weights.pth")
    foreign = read_encoder(str(tmp_path / "weights.pth"))
    assert (foreign.name, foreign.part) == ("weights", part)
    assert (foreign.width, foreign.depth, foreign.patch_size, foreign.in_chans) == (32, 2, 4, 3)
    assert foreign.grid == Grid(4, 4, 4) and foreign.heads is None and foreign.mean is None and foreign.std is None
    assert foreign.has_class_token and foreign.qkv_bias and foreign.mlp_ratio == 4
    assert foreign.state.keys() == vit.state_dict().keys()
    assert_same(built(foreign, foreign.grid, heads=2), vit, images())


def test_registers_of_dinov2_stand_between_class_and_patches(tmp_path: Path) -> None:
    """Its sequence: class token and patches get positions, then registers, which have none, come between."""
    vit = tiny_vit(reg_tokens=2, no_embed_class=True)
    state = vit.state_dict()
    place = torch.randn(1, 1, 32)
    theirs = {name: value for name, value in state.items() if name != "reg_token"}
    theirs |= {"register_tokens": state["reg_token"], "cls_token": state["cls_token"] - place}
    theirs["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
    torch.save(theirs, tmp_path / "weights.pth")
    foreign = read_encoder(str(tmp_path / "weights.pth"))
    assert foreign.grid == Grid(4, 4, 4)
    assert_same(built(foreign, foreign.grid, heads=2), vit, images())


def test_two_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    state = tiny_vit().state_dict()
    torch.save({**state, "_orig_mod.cls_token": state["cls_token"]}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="holds both cls_token and _orig_mod.cls_token; save the model's state dict"):
        read_encoder(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite_are_refused(value: float, suffix: str, tmp_path: Path) -> None:
    state, path = tiny_vit().state_dict(), tmp_path / f"weights{suffix}"
    state["blocks.1.mlp.fc1.weight"][3, 4] = value
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(UsageError, match=r"has weights that are not finite \(blocks.1.mlp.fc1.weight\): its training"):
        read_encoder(str(path))


def test_what_was_taken_from_a_file_is_said(tmp_path: Path) -> None:
    torch.save(ijepa(tiny_vit().state_dict()), tmp_path / "jepa.pth")
    foreign = read_encoder(str(tmp_path / "jepa.pth"))
    expected = "read target_encoder; its positions are assumed to be those of 4 x 4 patches of 4 pixels"
    assert foreign.assumed == f"{tmp_path}/jepa.pth: {expected}"
    torch.save(tiny_vit().state_dict(), tmp_path / "plain.pth")
    assert "read the whole file" in str(read_encoder(str(tmp_path / "plain.pth")).assumed)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".ckpt", ".weights"])
def test_files_by_any_name(suffix: str, tmp_path: Path) -> None:
    vit, path = tiny_vit(), tmp_path / f"mine{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(vit.state_dict(), path)
    assert_same(built(read_encoder(str(path)), Grid(4, 4, 4), heads=2), vit, images())


@pytest.mark.parametrize("model_name", [None, "deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"reg_tokens": 2},
        {"reg_tokens": 2, "no_embed_class": True},
        {"no_embed_class": True, "init_values": 0.1},
        {"qkv_bias": False, "proj_bias": False, "mlp_ratio": 2.7},
        {"qk_norm": True},
        {"pre_norm": True, "in_chans": 1},
        {"depth": 12, "embed_dim": 64, "num_heads": 1},
    ],
    ids=str,
)
def test_settings_of_any_plain_vit(kwargs: dict[str, Any], model_name: str | None, tmp_path: Path) -> None:
    vit = tiny_vit(**kwargs)
    torch.save(vit.state_dict(), tmp_path / "weights.pth")
    foreign = read_encoder(str(tmp_path / "weights.pth"))
    encoder = built(foreign, foreign.grid, model_name=model_name, heads=kwargs.get("num_heads", 2))
    assert_same(encoder, vit, images(channels=kwargs.get("in_chans", 3)))


def foreign_of(**kwargs: Any) -> PretrainedEncoder:
    vit = tiny_vit(**kwargs)
    rows, cols = vit.patch_embed.grid_size
    return PretrainedEncoder("made", vit.state_dict(), Grid(rows, cols, 4))


def test_settings_name_what_differs_alone() -> None:
    small = {"embed_dim": 384, "num_heads": 6}
    assert model_settings(foreign_of(**small, depth=12)) == {
        "name": "vit_small_patch16_224",
        "patch_size": 4,
        "kwargs": {},
    }
    assert model_settings(foreign_of(**small))["kwargs"] == {"depth": 2}
    assert model_settings(foreign_of(reg_tokens=2))["kwargs"] == {
        "embed_dim": 32,
        "depth": 2,
        "reg_tokens": 2,
        "num_heads": 1,
    }


def test_heads() -> None:
    wide, huge, normed = foreign_of(embed_dim=128), foreign_of(embed_dim=1280, num_heads=16), foreign_of(qk_norm=True)
    assert model_settings(wide)["kwargs"]["num_heads"] == 2, "one for every 64"
    assert "num_heads" not in model_settings(huge)["kwargs"], "ViT-H has 16, not 20"
    assert model_settings(huge, heads=20)["kwargs"]["num_heads"] == 20
    with pytest.raises(UsageError, match="made is 32 wide, which 3 heads do not divide"):
        model_settings(normed, heads=3)


def test_norms_of_queries_tell_the_heads(tmp_path: Path) -> None:
    torch.save(tiny_vit(qk_norm=True, num_heads=4).state_dict(), tmp_path / "weights.pth")
    assert read_encoder(str(tmp_path / "weights.pth")).heads == 4


def test_settings_draw_nothing() -> None:
    foreign = foreign_of()
    before = torch.get_rng_state()
    model_settings(foreign)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [(24, 24), (16, 24), (8, 32)])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"reg_tokens": 2, "no_embed_class": True}, {"class_token": False, "global_pool": "avg", "fc_norm": False}],
    ids=str,
)
def test_another_size_is_resized_as_by_timm(size: tuple[int, int], kwargs: dict[str, Any]) -> None:
    resizing = tiny_vit(dynamic_img_size=True, **kwargs)
    foreign = PretrainedEncoder("made", resizing.state_dict(), Grid(4, 4, 4))
    encoder = built(foreign, Grid(size[0] // 4, size[1] // 4, 4), heads=2)
    assert_same(encoder, resizing, images(size))


def test_weights_that_do_not_fit_are_named() -> None:
    state, grid = tiny_vit().state_dict(), Grid(4, 4, 4)
    for kwargs, message in (
        ({"reg_tokens": 2}, "the encoder has no reg_token; give the model the encoder's own settings"),
        ({"qkv_bias": False}, "has blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias, which the model has not"),
        ({"depth": 3}, "has no blocks.2.norm1.weight, blocks.2.norm1.bias, blocks.2.attn.qkv.weight and 9 more"),
        ({"patch_size": 8}, r"patch_embed.proj.weight is 32 x 3 x 4 x 4, the model's 32 x 3 x 8 x 8"),
        ({"no_embed_class": True}, "pos_embed is 1 x 17 x 32, the model's 1 x 16 x 32"),
    ):
        with pytest.raises(UsageError, match=message):
            load_weights(tiny_vit(**kwargs), state, grid)


def test_digest_is_of_names_shapes_types_and_bytes(tmp_path: Path) -> None:
    state = tiny_vit().state_dict()
    torch.save(mae(state), tmp_path / "one.pth")
    save_file(state, tmp_path / "two.safetensors")
    digest = read_encoder(str(tmp_path / "one.pth")).digest
    assert digest == read_encoder(str(tmp_path / "two.safetensors")).digest
    for other in (
        {**state, "norm.bias": state["norm.bias"] + 1e-6},
        {**state, "norm.bias": state["norm.bias"].half()},
        {**state, "norm.bias": state["norm.bias"][None]},
        {**state, "norm.bias": state["norm.weight"], "norm.weight": state["norm.bias"]},
    ):
        assert PretrainedEncoder("other", other, Grid(4, 4, 4)).digest != digest


def test_half_precision_weights(tmp_path: Path) -> None:
    state = {name: value.bfloat16() for name, value in tiny_vit().state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    foreign = read_encoder(str(tmp_path / "half.safetensors"))
    vit = tiny_vit()
    vit.load_state_dict(state)
    assert_same(built(foreign, foreign.grid, heads=2), vit, images())
    assert len(foreign.digest) == 64


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    kwargs = {"embed_dim": 32, "depth": 2, "num_heads": 4, "drop_path_rate": 0.1}
    changes = {"data__img_size": "16x24", "train__epochs": 1, "data__limit": 100, "model__kwargs": kwargs}
    config = tiny_config(tmp_path_factory.mktemp("results"), **changes, probes="knn")
    return run(config), make_plan(config).folder


@pytest.mark.parametrize("file", ["", "encoder.safetensors"])
def test_the_encoder_of_a_run(done: tuple[RunRecord, Path], file: str) -> None:
    record, folder = done
    foreign = read_encoder(str(folder / file))
    assert foreign.name == record.run_id and foreign.grid == Grid(4, 6, 4) and foreign.heads == 4
    assert model_settings(foreign) == {key: record.config["model"][key] for key in ("name", "patch_size", "kwargs")}
    assert foreign.mean is not None and foreign.mean.tolist() == pytest.approx(record.dataset["mean"])
    assert foreign.std is not None and foreign.std.tolist() == pytest.approx(record.dataset["std"])
    vit = timm.create_model(record.model["name"], **record.model["arguments"]).eval()
    vit.load_state_dict(foreign.state)
    assert_same(built(foreign, foreign.grid), vit, images((16, 24)))


def test_a_run_of_which_the_encoder_alone_is_left(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    (tmp_path / "encoder.safetensors").write_bytes((done[1] / "encoder.safetensors").read_bytes())
    foreign = read_encoder(str(tmp_path / "encoder.safetensors"))
    assert foreign.grid == Grid(4, 6, 4) and foreign.heads == 4 and foreign.mean is None


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda malice: malice, lambda malice: Namespace(lr=malice)], ids=["bare", "in args"])
def test_nothing_in_a_file_is_run(wrap: Callable[[Malice], Any], zipped: bool, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "weights.pth"
    content = {"model": tiny_vit().state_dict(), "args": wrap(Malice(made))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match=r"needs \w+\.mkdir to be unpickled, which can run anything") as refused:
        read_encoder(str(path))
    assert "\n" not in str(refused.value) and not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists(), "it would have run"


def test_an_object_of_any_other_class_is_refused(tmp_path: Path) -> None:
    torch.save({"model": tiny_vit().state_dict(), "output": PurePosixPath("a")}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="needs pathlib.*PurePosixPath to be unpickled.* save its state dict alone"):
        read_encoder(str(tmp_path / "weights.pth"))
    assert Namespace not in torch.serialization.get_safe_globals(), "nor is what is let through let through for good"


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="holds no vision transformer"):
        read_encoder(str(tmp_path / "weights.pth"))


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(names)}


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "resnet": (
        lambda _: dict(list(timm.create_model("resnet10t").state_dict().items())[:20]),
        "holds no vision transformer in a known format: no patch_embed.proj.weight, but conv1.* and 17 more",
    ),
    "empty": (lambda _: {}, "holds no vision transformer .* but nothing"),
    "a wrapper of its own": (lambda state: {"my_model": state, "epoch": 3}, "but my_model, epoch"),
    "a tensor": (lambda _: torch.zeros(3), "holds a Tensor, no weights by name"),
    "fine-tuned": (
        lambda state: {
            "model": without(state, "norm.") | {"fc_norm.weight": torch.ones(32), "head.bias": torch.ones(5)}
        },
        "normalises the mean of its tokens \\(fc_norm\\) and not the tokens",
    ),
    "relative positions": (
        lambda state: {
            "model": prefixed({**state, "rel_pos_bias.relative_position_bias_table": torch.ones(9)}, "encoder.")
        },
        "has relative positions \\(rel_pos_bias.relative_position_bias_table\\)",
    ),
    "left over": (
        lambda state: {**state, **{f"blocks.0.attn.lora_{name}": torch.ones(2) for name in "abcd"}},
        "no plain timm VisionTransformer has: blocks.0.attn.lora_a, blocks.0.attn.lora_b, blocks.0.attn.lora_c and 1",
    ),
    "left over beside": (
        lambda state: prefixed(state, "backbone.") | {"neck.weight": torch.ones(2)},
        "no plain timm VisionTransformer has: neck.weight",
    ),
    "in chunks that each count from 0": (
        lambda state: renamed(renamed(state, "blocks.0.", "blocks.0.0."), "blocks.1.", "blocks.1.0."),
        "holds both blocks.0.0.norm1.weight and blocks.1.0.norm1.weight; save the model's state dict alone",
    ),
    "a bias of queries alone": (
        lambda state: {**state, "blocks.0.attn.q_bias": torch.ones(32)},
        "VisionTransformer has: blocks.0.attn.q_bias",
    ),
    "no positions": (lambda state: without(state, "pos_embed"), "no whole timm VisionTransformer .*: no pos_embed"),
    "no last norm": (lambda state: without(state, "norm."), "no whole timm VisionTransformer .*: no norm.weight"),
    "no square": (
        lambda state: {**state, "pos_embed": torch.ones(1, 14, 32)},
        "14 positions, which make no square grid",
    ),
    "oblong patches": (
        lambda state: {**state, "patch_embed.proj.weight": torch.ones(32, 3, 4, 8)},
        "embeds its patches by 32 x 3 x 4 x 8 weights",
    ),
    "a block far away": (
        lambda state: {**state, "blocks.999.norm1.weight": torch.ones(32)},
        "has a block 999 and no block 2; give a whole encoder",
    ),
    "a block farther away": (
        lambda state: {**state, "blocks.99999999.norm1.weight": torch.ones(32)},
        "no plain timm VisionTransformer has: blocks.99999999.norm1.weight",
    ),
    "whole numbers": (
        lambda state: {**state, "norm.weight": torch.ones(32, dtype=torch.int64)},
        "has norm.weight as int64, where numbers of 16, 32 or 64 bits should be",
    ),
    "complex numbers": (
        lambda state: {**state, "norm.weight": torch.ones(32, dtype=torch.complex64)},
        "has norm.weight as complex64",
    ),
    "a block of another width": (
        lambda state: {**state, "blocks.1.mlp.fc2.weight": torch.ones(24, 128)},
        "has blocks.1.mlp.fc2.weight of the shape 24 x 128, which no vision transformer has; copy it again",
    ),
    "flat positions": (lambda state: {**state, "pos_embed": torch.ones(17 * 32)}, "has pos_embed of the shape 544,"),
    "a class token of another width": (
        lambda state: {**state, "cls_token": torch.ones(1, 1, 31), "register_tokens": torch.ones(1, 2, 32)},
        "of the shape 1 x ., which|of the shape 1 x 17 x 32|of the shape 1 x 1 x 31",
    ),
    "no width": (
        lambda state: {name: value.new_zeros([0] * value.ndim) for name, value in state.items()},
        "of the shape 0",
    ),
    "a single number": (lambda state: {**state, "patch_embed.proj.weight": torch.tensor(1.0)}, "the shape a single"),
    "more than it has": (
        lambda state: {**state, "norm.weight": torch.ones(1).expand(2**40)},
        r"cannot be read as a torch checkpoint \(it has a tensor that is not as large as it says\)",
    ),
    "sparse": (lambda state: {**state, "norm.weight": torch.ones(32).to_sparse()}, "be read as a torch checkpoint"),
    "without data": (lambda state: {**state, "norm.weight": torch.ones(32, device="meta")}, "tensor that is not as la"),
    "patches as vectors": (
        lambda state: {**state, "patch_embed.proj.weight": torch.ones(32, 48)},
        "embeds its patches by 32 x 48 weights",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_plain_vision_transformer_is_refused(what: str, tmp_path: Path) -> None:
    write, message = REFUSED[what]
    torch.save(write(tiny_vit().state_dict()), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=message) as refused:
        read_encoder(str(tmp_path / "weights.pth"))
    assert "\n" not in str(refused.value) and "weights.pth" in str(refused.value)


def test_a_file_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    """torch stores tensors as they are; compressed zeros would fill the memory before anything is looked at."""
    torch.save(tiny_vit().state_dict(), tmp_path / "whole.pth")
    path = tmp_path / "packed.pth"
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(UsageError, match=r"packed.pth cannot be read as a torch checkpoint \(it is compressed"):
        read_encoder(str(path))
    for name in ("pipe.pth", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UsageError, match="no file or folder"):
            read_encoder(str(tmp_path / name))
    with pytest.raises(UsageError, match=r"pipe.pth cannot be read as a torch checkpoint \(it is a pipe, not a file\)"):
        read_torch_file(tmp_path / "pipe.pth")
    with pytest.raises(UsageError, match=r"cannot be read as safetensors \(it is a pipe, not a file\); copy it again"):
        read_safetensors(tmp_path / "pipe.safetensors")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    torch.save(mae(tiny_vit().state_dict()), tmp_path / "whole.pth")
    torch.save(tiny_vit().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tiny_vit().state_dict(), tmp_path / "whole.safetensors")
    contents = {
        "cut.pth": (tmp_path / "whole.pth").read_bytes()[:40_000],
        "cut-old.pth": (tmp_path / "old.pth").read_bytes()[:60_000],
        "cut.safetensors": (tmp_path / "whole.safetensors").read_bytes()[:40_000],
        "empty.pth": b"",
        "empty.safetensors": b"",
        "text.pth": b"hello\n" * 100,
        "page.safetensors": b"<html>" * 100,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        kind = "safetensors" if name.endswith("safetensors") else "a torch checkpoint"
        with pytest.raises(UsageError, match=f"{name} cannot be read as {kind} ") as refused:
            read_encoder(str(tmp_path / name))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.pth", "no file or folder missing.pth; give a run's folder, a file of weights or a timm model's name"),
        ("nowhere/run", "no file or folder nowhere/run"),
        (".", r"\. is not the folder of a finished run: it has no record.json"),
        ("vit_smal_patch16_224.dino", "no folder, file or timm model .* Did you mean vit_small_patch16_224.dino"),
        ("xyzzy", "no folder, file or timm model 'xyzzy'. Give a run's folder, .* such as vit_small_patch16_224.dino"),
        ("resnet50.a1_in1k", "model resnet50 is no plain timm VisionTransformer with absolute positions"),
        ("vit_base_patch16_siglip_224", "model vit_base_patch16_siglip_224 is no plain timm VisionTransformer"),
        ("vit_small_patch16_224.dinno", "unknown timm weights .* Did you mean vit_small_patch16_224.dino"),
        ("vit_tiny_patch16_18x2_224", "no folder, file or timm model"),
        ("vit_small_patch16_18x2_224", "model vit_small_patch16_18x2_224 is no plain timm VisionTransformer"),
        ("vit_small_patch16_36x1_224", "timm has no weights for vit_small_patch16_36x1_224; give a file of them"),
    ],
)
def test_mistakes_are_one_line(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as refused:
        read_encoder(source)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_a_run_that_diverged(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    done[0].model_copy(update={"status": "diverged"}).write(tmp_path / "record.json")
    (tmp_path / "encoder.safetensors").write_bytes((done[1] / "encoder.safetensors").read_bytes())
    with pytest.raises(UsageError, match="is of a run that diverged; give one that is complete"):
        read_encoder(str(tmp_path))
    done[0].write(tmp_path / "record.json")
    (tmp_path / "encoder.safetensors").write_bytes(b"cut")
    for read in (read_encoder, maskbench.load_encoder):
        with pytest.raises(UsageError, match="encoder.safetensors cannot be read .*; copy it again"):
            read(str(tmp_path))


def test_a_run_about_an_encoder_from_elsewhere(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    external = {"name": "external", "parameters": {"source": "mae.pth", "label": "mae", "digest": "0", "part": ""}}
    config = {**done[0].config, "objective": external}
    record = done[0].model_copy(update={"objective": {**external, "version": 1}, "config": config})
    record.write(tmp_path / "record.json")
    with pytest.raises(UsageError, match="is about an encoder from elsewhere and holds none; give its source, mae.pth"):
        read_encoder(str(tmp_path))


def downloading(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
    """`answer` in place of whatever timm would download."""
    create = timm.create_model

    def instead(name: str, pretrained: bool = False, **kwargs: Any) -> Any:
        return answer(create, name, **kwargs) if pretrained else create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", instead)


@pytest.mark.parametrize("error", [OSError("no such host\nat all"), RuntimeError("404"), KeyError("gone")], ids=repr)
def test_a_download_that_fails(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    downloading(monkeypatch, fail)
    with pytest.raises(UsageError, match="cannot get vit_tiny_patch16_224.augreg_in21k .* give the file") as refused:
        read_encoder("vit_tiny_patch16_224.augreg_in21k")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "size", "heads"), [("deit_tiny_patch16_224.fb_in1k", 224, 3), ("vit_tiny_patch16_384", 384, 3)]
)
def test_timm_by_name(name: str, size: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded = []

    def answer(create: Callable[..., Any], name: str, **kwargs: Any) -> Any:
        downloaded.append(create(name, **kwargs).eval())
        return downloaded[0]

    downloading(monkeypatch, answer)
    foreign = read_encoder(name)
    assert foreign.name == name and foreign.grid == Grid(size // 16, size // 16, 16) and foreign.heads == heads
    assert foreign.mean is not None and foreign.std is not None
    assert foreign.mean.tolist() == pytest.approx(list(downloaded[0].pretrained_cfg["mean"]))
    architecture = name.partition(".")[0]
    assert model_settings(foreign) == {"name": architecture, "patch_size": 16, "kwargs": {}}
    load_weights(built(foreign, Grid(2, 3, 16)).vit, foreign.state, foreign.grid)
    assert_same(built(foreign, foreign.grid), downloaded[0], images((size, size)))


def test_timm_models_without_normalised_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    downloading(monkeypatch, lambda create, name, **kwargs: create(name, global_pool="avg", **kwargs))
    with pytest.raises(UsageError, match="vit_tiny_patch16_384 normalises the mean of its tokens"):
        read_encoder("vit_tiny_patch16_384")
