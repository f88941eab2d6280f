"""What a configuration, a record or a header may pass to `timm.create_model`: a model's shape, and nothing else."""

import inspect
from typing import Any

import pytest
from timm.models.vision_transformer import VisionTransformer

from maskbench.config.model_arguments import RecordedArguments, check_model_kwargs, check_recorded_model
from maskbench.config.resolve import load_preset, merge, parse_config, preset_names
from maskbench.config.suite import expand_suite, read_suite
from maskbench.errors import UsageError

RECORDED: dict[str, Any] = {"img_size": [32, 32], "patch_size": 4, "in_chans": 3, "num_classes": 0, "fc_norm": False}
CODE_AND_NETWORK: dict[str, Any] = {
    "checkpoint_path": "evil.pth",
    "pretrained": True,
    "pretrained_cfg": {"url": "http://127.0.0.1/evil"},
    "pretrained_cfg_overlay": {"url": "http://127.0.0.1/evil"},
    "pretrained_strict": False,
    "cache_dir": "/tmp",
    "scriptable": True,
    "exportable": True,
    "no_jit": True,
    "features_only": True,
    "out_indices": [1],
    "block_fn": "x",
    "mlp_layer": "x",
    "attn_layer": "x",
    "embed_layer": "x",
    "device": "meta",
    "dtype": "x",
    "dynamic_img_size": True,
}
OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    ({"depth": 10_000_000}, "depth=10000000 should be less than or equal to 512"),
    ({"depth": 0}, "depth=0 should be"),
    ({"depth": True}, "depth=True should be a valid integer"),
    ({"depth": "6"}, "depth='6' should be a valid integer"),
    ({"depth": "6" * 1000}, "depth='666"),
    ({"embed_dim": 8192, "depth": 512}, "412 billion parameters; at most 30"),
    ({"embed_dim": 8192, "depth": 24, "mlp_ratio": 64}, "billion parameters"),
    ({"num_heads": 10**9}, "num_heads"),
    ({"reg_tokens": 10**6}, "reg_tokens"),
    ({"mlp_ratio": float("nan")}, "mlp_ratio"),
    ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ({"init_values": float("inf")}, "init_values"),
    ({"norm_layer": "torch.nn.LayerNorm"}, "norm_layer"),
    ({"global_pool": "map"}, "global_pool"),
]


@pytest.mark.parametrize("name", CODE_AND_NETWORK)
def test_what_names_files_addresses_or_code_is_no_argument(name: str) -> None:
    given = {name: CODE_AND_NETWORK[name]}
    with pytest.raises(UsageError, match=f"unknown argument in model.kwargs: '{name}'"):
        check_model_kwargs(given)
    with pytest.raises(UsageError, match=f"unknown argument in model.kwargs: '{name}'"):
        parse_config({"model": {"kwargs": given}})
    model = {"name": "vit_tiny_patch16_224", "arguments": {**RECORDED, **given}}
    with pytest.raises(UsageError, match=f"unknown argument in run: its model: '{name}'"):
        check_recorded_model("run", model)


@pytest.mark.parametrize(("given", "reason"), OUT_OF_RANGE, ids=str)
def test_arguments_have_types_and_ranges(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        check_model_kwargs(given)
    assert len(str(refused.value)) < 300
    with pytest.raises(UsageError, match=reason):
        check_recorded_model("run", {"name": "vit_tiny_patch16_224", "arguments": {**RECORDED, **given}})


@pytest.mark.parametrize(
    "model",
    [
        None,
        {},
        {"name": "vit_tiny_patch16_224"},
        {"name": 3, "arguments": RECORDED},
        {"name": "hf-hub:somebody/evil", "arguments": RECORDED},
        {"name": "local-dir:evil", "arguments": RECORDED},
        {"name": "vit_tiny_patch16_224", "arguments": {}},
        {"name": "vit_tiny_patch16_224", "arguments": {**RECORDED, "patch_size": 0}},
        {"name": "vit_tiny_patch16_224", "arguments": {**RECORDED, "img_size": [32]}},
        {"name": "vit_tiny_patch16_224", "arguments": {**RECORDED, "img_size": [4096, 4096], "patch_size": 1}},
        {"name": "vit_tiny_patch16_224", "arguments": {**RECORDED, "num_classes": 10**9}},
    ],
    ids=str,
)
def test_a_recorded_model_is_whole_and_of_timm(model: Any) -> None:
    with pytest.raises(UsageError, match="^run"):
        check_recorded_model("run", model)


def test_settings_of_their_own_are_pointed_to() -> None:
    with pytest.raises(UsageError, match="model.kwargs has img_size, .* give data.img_size"):
        check_model_kwargs({"img_size": 64})


def test_every_argument_is_timms_and_every_preset_passes() -> None:
    known = inspect.signature(VisionTransformer.__init__).parameters
    for name in RecordedArguments.model_fields.keys() & known.keys():  # older versions of timm have fewer
        field = RecordedArguments.model_fields[name]
        assert field.is_required() or field.default == known[name].default, name
    assert {"embed_dim", "depth", "num_heads", "mlp_ratio", "reg_tokens", "global_pool"} <= known.keys()
    for preset in preset_names():
        parse_config(merge(load_preset(preset), {}))
    expand_suite(*read_suite("cifar10"), {})
