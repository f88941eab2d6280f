"""Formats in which weights of vision transformers are published, and their conversion to timm's.

Known are timm's own; MAE (arXiv 2111.06377), with its decoder; DINO (2104.14294), iBOT (2111.07832) and AttMask
(2203.12719), with student, teacher and heads; I-JEPA (2301.08243), of which the target encoder is meant; DINOv2
(2304.07193), with chunks of blocks, heads and registers; GMML (2205.14986); SimMIM (2111.09886) and BEiT's way of
writing biases and LayerScale, with absolute positions. Prefixes of torch.compile and FSDP are left out. What
is known to be of no use to an encoder is dropped; anything else that is left over is an error.
"""

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.weight_shapes import ensure_convertible, ensure_fitting_shapes

AVERAGED = ("target_encoder", "teacher", "student")  # copies of one network, the one meant first
WRAPPERS = (*AVERAGED, "model", "SiT_model", "state_dict", "module", "encoder")  # in order of preference
PREFIXES = ("module.", "backbone.", "encoder.")
COMPILER_NAMES = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # anywhere in a name
USELESS = re.compile(
    r"((dino_|ibot_)?head(_\w+)?|projector|predictor|fc_norm)\.|decoder\w*(\.|$)|(mask_token|masked_embed)$"
    r"|bn\.(running_mean|running_var|num_batches_tracked)$"
)
VIT_WEIGHT = re.compile(
    r"cls_token|reg_token|pos_embed|(patch_embed\.proj|norm_pre|norm)\.(weight|bias)|blocks\.\d{1,3}\."
    r"((norm1|norm2|attn\.qkv|attn\.proj|attn\.q_norm|attn\.k_norm|mlp\.fc1|mlp\.fc2)\.(weight|bias)|ls[12]\.gamma)"
)
REQUIRED = ("pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "norm.weight")
LAYER_SCALE = 1e-5  # at initialisation: the loaded values replace it


def unwrap_state(content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str | None]:
    """The weights by name in a checkpoint's content, and which part of it they are, such as "model"; None: all."""
    parts: list[str] = []
    while len(parts) < len(WRAPPERS):  # bounded, because a hostile file may contain itself
        part = next((part for part in WRAPPERS if isinstance(content.get(part), Mapping)), None)
        if part is None:
            break
        content = content[part]
        parts.append(part)
    names = [COMPILER_NAMES.sub("", str(name)).removeprefix("module.") for name in content]
    copy = next((copy for copy in AVERAGED if any(name.startswith(f"{copy}.") for name in names)), None)
    if copy is not None:  # the copies are modules of one state dict
        named = zip(names, content.values(), strict=True)
        content = {name.removeprefix(f"{copy}."): value for name, value in named if name.startswith(f"{copy}.")}
        parts.append(copy)
    return content, ".".join(parts) or None


def convert_to_timm(source: object, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Convert weights in any known format to the state dict of a timm VisionTransformer.

    Args:
        source: Where they come from, for messages.
        content: The weights by name.

    Raises:
        UsageError: Where they are not of a plain model with absolute positions, or where one is left over.
    """
    tensors = _without_compiler_names(source, content)
    state, others = _strip_prefixes(tensors)
    if relative := [name for name in state if "relative_position" in name or "rel_pos_bias" in name]:
        raise UsageError(f"{source} has relative positions ({relative[0]}), which no timm VisionTransformer takes")
    if "patch_embed.proj.weight" not in state:
        raise UsageError(
            f"{source} holds no vision transformer in a known format: "
            f"no patch_embed.proj.weight, but {list_some(content) or 'nothing'}"
        )
    ensure_convertible(source, state)
    state = _use_dinov2_names(source, _use_timm_names(state))
    ensure_last_norm(source, state)
    unknown = [name for name in others if not USELESS.match(name)]
    state = {name: value for name, value in state.items() if not USELESS.match(name)}
    unknown += [name for name in state if not VIT_WEIGHT.fullmatch(name)]
    if unknown:
        raise UsageError(f"{source} holds weights that no plain timm VisionTransformer has: {list_some(unknown)}")
    if missing := [name for name in REQUIRED if name not in state]:
        raise UsageError(
            f"{source} is no whole timm VisionTransformer with absolute positions: no {list_some(missing)}"
        )
    if state["patch_embed.proj.weight"].ndim == 4:  # `infer_square_grid` names another way of embedding patches
        ensure_fitting_shapes(source, state)
    return state


def ensure_last_norm(source: object, state: Mapping[str, Tensor]) -> None:
    """Raise UsageError where the last norm acts on the mean of the patches: then the tokens themselves have none."""
    if "fc_norm.weight" in state and "norm.weight" not in state:
        raise UsageError(
            f"{source} normalises the mean of its tokens (fc_norm) and not the tokens, as MAE does in fine-tuning; "
            "give the weights from before that"
        )


def infer_square_grid(source: object, state: Mapping[str, Tensor]) -> Grid:
    """The grid of the positions in a timm `state`, taken to be square. UsageError where it is not."""
    patch, count = state["patch_embed.proj.weight"].shape[2:], state["pos_embed"].shape[1]
    if len(patch) != 2 or patch[0] != patch[1]:
        shape = " x ".join(map(str, state["patch_embed.proj.weight"].shape))
        raise UsageError(f"{source} embeds its patches by {shape} weights; only a convolution of square ones is known")
    for tokens in (count - ("cls_token" in state) - count_registers(state), count):
        if tokens > 0 and isqrt(tokens) ** 2 == tokens:
            return Grid(isqrt(tokens), isqrt(tokens), patch[0])
    raise UsageError(f"{source} has {count} positions, which make no square grid; if it is a run's, give its folder")


def infer_arguments(state: Mapping[str, Tensor], tokens: int) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer that the names and shapes of its `state` tell, for `tokens` patches.

    init_values is LAYER_SCALE if there is LayerScale, else 0.
    """
    width, hidden = state["patch_embed.proj.weight"].shape[0], state["blocks.0.mlp.fc1.weight"].shape[0]
    ratio = hidden / width
    prefixed = "cls_token" in state or "reg_token" in state
    return {
        "embed_dim": width,
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "proj_bias": "blocks.0.attn.proj.bias" in state,
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "init_values": LAYER_SCALE if "blocks.0.ls1.gamma" in state else 0.0,
        "class_token": "cls_token" in state,
        "reg_tokens": count_registers(state),
        "no_embed_class": prefixed and state["pos_embed"].shape[1] == tokens,
        "pre_norm": "norm_pre.weight" in state,
        "final_norm": "norm.weight" in state,
    }


def count_registers(state: Mapping[str, Tensor]) -> int:
    """How many register tokens there are in a timm `state`."""
    return state["reg_token"].shape[1] if "reg_token" in state else 0


def list_some(names: Iterable[Any]) -> str:
    """The first three names, and how many more there are, for messages."""
    names = [str(name) for name in names]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _strip_prefixes(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights without the prefixes of modules around the encoder, and the names of the weights outside it."""
    others: list[str] = []
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in state)), None):
        others += [name for name in state if not name.startswith(prefix)]
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state, others


def _use_timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give BEiT's LayerScale and its biases of queries and values (keys have none) timm's names."""
    renamed = {re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name): value for name, value in state.items()}
    for name in [name for name in renamed if name.endswith(".attn.q_bias")]:
        attention = name.removesuffix("q_bias")
        if attention + "v_bias" in renamed:
            query, value = renamed.pop(name), renamed.pop(attention + "v_bias")
            renamed[attention + "qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return renamed


def _without_compiler_names(source: object, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors, by names without what torch.compile and FSDP put into them."""
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return _rename_all(source, {name: COMPILER_NAMES.sub("", str(name)) for name in tensors}, tensors)


def _use_dinov2_names(source: object, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring DINOv2's chunks of blocks and its registers into timm's form.

    Block 7 is blocks.1.7 in chunks. Registers have no positions; then timm keeps none for the class token, to which its
    position is added here.
    """
    state = _rename_all(source, {name: re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name) for name in state}, state)
    if "register_tokens" not in state:
        return state
    positions = state["pos_embed"]
    return {
        **{name: value for name, value in state.items() if name != "register_tokens"},
        "reg_token": state["register_tokens"],
        "cls_token": state["cls_token"] + positions[:, :1],
        "pos_embed": positions[:, 1:],
    }


def _rename_all(source: object, names: Mapping[Any, str], tensors: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """The tensors by their new names. UsageError where two would have the same."""
    renamed = {names[name]: value for name, value in tensors.items()}
    if len(renamed) < len(tensors):
        seen: dict[str, Any] = {}
        for name, new in names.items():
            if new in seen:
                raise UsageError(f"{source} holds both {seen[new]} and {name}; save the model's state dict alone")
            seen[new] = name
    return renamed


def ensure_finite(source: object, state: Mapping[str, Tensor]) -> None:
    """Raise UsageError where a weight is infinite or no number: probes would find chance, and nothing would say why."""
    if broken := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UsageError(
            f"{source} has weights that are not finite ({list_some(broken)}): its training diverged, or the file is "
            f"damaged; give an earlier checkpoint"
        )
