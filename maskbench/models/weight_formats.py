"""Layouts in which weights of vision transformers are published, and how they become timm's.

Known are timm's own; MAE (arXiv 2111.06377), with its decoder; DINO (2104.14294), iBOT (2111.07832) and AttMask
(2203.12719), with student, teacher and heads; GMML (2205.14986); SimMIM (2111.09886) and BEiT's way of writing biases
and LayerScale, with absolute positions. What is known to be of no use to an encoder is dropped; anything else that is
left over is an error.
"""

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import UsageError

PARTS = ("teacher", "student", "model", "SiT_model", "state_dict", "module", "encoder")  # the first that there is
PREFIXES = ("module.", "backbone.", "encoder.")
DROPPED = re.compile(
    r"(head(_\w+)?|projector|predictor|fc_norm)\.|decoder\w*(\.|$)|(mask_token|masked_embed)$"
    r"|bn\.(running_mean|running_var|num_batches_tracked)$"
)
EXPECTED = re.compile(
    r"cls_token|reg_token|pos_embed|(patch_embed\.proj|norm_pre|norm)\.(weight|bias)|blocks\.\d+\."
    r"((norm1|norm2|attn\.qkv|attn\.proj|attn\.q_norm|attn\.k_norm|mlp\.fc1|mlp\.fc2)\.(weight|bias)|ls[12]\.gamma)"
)
NEEDED = ("pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "norm.weight")
LAYER_SCALE = 1e-5  # to begin with: what is loaded replaces it


def unwrapped(content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str | None]:
    """The weights by name in what a checkpoint holds, and which part of it they are, None for all of it."""
    parts: list[str] = []
    while len(parts) < len(PARTS):  # a hostile file may hold itself
        part = next((part for part in PARTS if isinstance(content.get(part), Mapping)), None)
        if part is None:
            break
        content = content[part]
        parts.append(part)
    return content, ".".join(parts) or None


def timm_state(source: object, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Weights by name, of whatever layout, as the state dict of a timm VisionTransformer. source: for messages.

    UsageError where they are of no plain one with absolute positions, or where one is left over.
    """
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    state, beside = _without_prefixes(tensors)
    if relative := [name for name in state if "relative_position" in name or "rel_pos_bias" in name]:
        raise UsageError(f"{source} has relative positions ({relative[0]}), which no timm VisionTransformer takes")
    if "patch_embed.proj.weight" not in state:
        raise UsageError(
            f"{source} holds no vision transformer in a layout that is known: "
            f"no patch_embed.proj.weight, but {some(content) or 'nothing'}"
        )
    state = _timm_names(state)
    has_last_norm(source, state)
    strange = [name for name in beside if not DROPPED.match(name)]
    state = {name: value for name, value in state.items() if not DROPPED.match(name)}
    strange += [name for name in state if not EXPECTED.fullmatch(name)]
    if strange:
        raise UsageError(f"{source} holds weights that no plain timm VisionTransformer has: {some(strange)}")
    if lacking := [name for name in NEEDED if name not in state]:
        raise UsageError(f"{source} is no whole timm VisionTransformer with absolute positions: no {some(lacking)}")
    return state


def has_last_norm(source: object, state: Mapping[str, Tensor]) -> None:
    """UsageError where the last norm is of the mean over patches: then tokens have none, and would be others."""
    if "fc_norm.weight" in state and "norm.weight" not in state:
        raise UsageError(
            f"{source} normalises the mean of its tokens (fc_norm) and not the tokens, as MAE does in fine-tuning; "
            "give the weights from before that"
        )


def square_grid(source: object, state: Mapping[str, Tensor]) -> Grid:
    """The grid of the positions in a timm `state`, taken to be square. UsageError where there is no such grid."""
    patch, count = state["patch_embed.proj.weight"].shape[2:], state["pos_embed"].shape[1]
    if len(patch) != 2 or patch[0] != patch[1]:
        shape = " x ".join(map(str, state["patch_embed.proj.weight"].shape))
        raise UsageError(f"{source} embeds its patches by {shape} weights; only a convolution of square ones is known")
    for tokens in (count - ("cls_token" in state) - registers(state), count):
        if tokens > 0 and isqrt(tokens) ** 2 == tokens:
            return Grid(isqrt(tokens), isqrt(tokens), patch[0])
    raise UsageError(f"{source} has {count} positions, which make no square grid; if it is a run's, give its folder")


def structure(state: Mapping[str, Tensor], tokens: int) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer that show in the names and shapes of its `state`, for `tokens` patches.
    init_values: LAYER_SCALE if there is any, else 0."""
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
        "reg_tokens": registers(state),
        "no_embed_class": prefixed and state["pos_embed"].shape[1] == tokens,
        "pre_norm": "norm_pre.weight" in state,
        "final_norm": "norm.weight" in state,
    }


def registers(state: Mapping[str, Tensor]) -> int:
    """How many register tokens there are in a timm `state`."""
    return state["reg_token"].shape[1] if "reg_token" in state else 0


def some(names: Iterable[Any]) -> str:
    """The first three names, and how many more."""
    names = [str(name) for name in names]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _without_prefixes(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights without the prefixes of what the encoder was wrapped in, and the names of what lies beside it."""
    beside: list[str] = []
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in state)), None):
        beside += [name for name in state if not name.startswith(prefix)]
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state, beside


def _timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """BEiT's LayerScale, and its biases of queries and values (keys have none), under timm's names."""
    found = {re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name): value for name, value in state.items()}
    for name in [name for name in found if name.endswith(".attn.q_bias")]:
        attention = name.removesuffix("q_bias")
        if attention + "v_bias" in found:
            query, value = found.pop(name), found.pop(attention + "v_bias")
            found[attention + "qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return found
