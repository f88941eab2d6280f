"""What the weights of a vision transformer must be like: floating point, finite, and of shapes that fit each other."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from maskbench.errors import UsageError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DIMENSIONS = {"pos_embed": 3, "cls_token": 3, "reg_token": 3, "register_tokens": 3}
PARTS = ("patch_embed.", "pos_embed", "cls_token", "reg", "blocks.", "norm")
MAX_DEPTH, MAX_WIDTH = 512, 65_536
_BLOCK = re.compile(r"blocks\.(\d{1,3})\.(.+)")


def ensure_convertible(source: object, state: Mapping[str, Tensor]) -> None:
    """Check what a conversion relies on: tensors with elements, tokens and positions of one width.

    Raises:
        UsageError: One line that begins with `source` and names a weight.
    """
    widths = {name: value.shape[-1] for name, value in state.items() if name in DIMENSIONS and value.ndim == 3}
    odd = [name for name, dimensions in DIMENSIONS.items() if name in state and state[name].ndim != dimensions]
    odd += [name for name, value in state.items() if name.endswith(("q_bias", "v_bias")) and value.ndim != 1]
    odd += [name for name, value in state.items() if not value.numel() and name.startswith(PARTS)]
    odd += [name for name in widths if len(set(widths.values())) > 1]
    if "patch_embed.proj.weight" in state and state["patch_embed.proj.weight"].ndim < 2:
        odd.append("patch_embed.proj.weight")
    if odd:
        raise _shape_error(source, odd[0], state[odd[0]])


def ensure_fitting_shapes(source: object, state: Mapping[str, Tensor]) -> None:
    """Check the weights of a plain timm VisionTransformer against the width that its patch embedding has.

    Raises:
        UsageError: One line that begins with `source` and names a weight that does not fit, or a block that is missing
            between others.
    """
    width, hidden = state["patch_embed.proj.weight"].shape[0], state["blocks.0.mlp.fc1.weight"].shape[0]
    if width > MAX_WIDTH:
        raise _shape_error(source, "patch_embed.proj.weight", state["patch_embed.proj.weight"])
    blocks = sorted({int(found[1]) for name in state if (found := _BLOCK.fullmatch(name))})
    if blocks != list(range(len(blocks))) or len(blocks) > MAX_DEPTH:
        gap = next((number for number, block in enumerate(blocks) if number != block), MAX_DEPTH)
        raise UsageError(f"{source} has a block {blocks[-1]} and no block {gap}; give a whole encoder")
    for name, value in state.items():
        expected = _expected_shape(name, width, hidden)
        if expected is not None and tuple(value.shape) != expected:
            raise _shape_error(source, name, value)
        if name.endswith(("q_norm.weight", "k_norm.weight")) and (value.ndim != 1 or width % len(value)):
            raise _shape_error(source, name, value)


def _expected_shape(name: str, width: int, hidden: int) -> tuple[int, ...] | None:
    """The shape of a weight; None where it is not a function of the widths alone."""
    within = found[2] if (found := _BLOCK.fullmatch(name)) else name
    shapes: dict[str, tuple[int, ...]] = {
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "cls_token": (1, 1, width),
    }
    vectors = r"(norm\d?|norm_pre)\.(weight|bias)|(attn\.proj|mlp\.fc2|patch_embed\.proj)\.bias|ls[12]\.gamma"
    return shapes.get(within, (width,) if re.fullmatch(vectors, within) else None)


def ensure_float(source: object, state: Mapping[str, Tensor]) -> None:
    """UsageError where a weight is of whole numbers, complex, or of a type of 8 bits."""
    for name, value in state.items():
        if value.dtype not in FLOATS:
            kind = str(value.dtype).removeprefix("torch.")
            raise UsageError(f"{source} has {name} as {kind}, where numbers of 16, 32 or 64 bits should be; convert it")


def _shape_error(source: object, name: str, value: Tensor) -> UsageError:
    shape = " x ".join(map(str, value.shape)) or "a single number"
    return UsageError(f"{source} has {name} of the shape {shape}, which no vision transformer has; copy it again")
