"""Pretrained encoders: their weights, what these tell about the model, and loading them into one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.encoder import build_encoder
from maskbench.models.positions import resize_positions
from maskbench.models.weight_formats import infer_arguments, list_some

STANDARD_MODELS = {
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
}  # by width; vit_tiny_patch16_224 for any other

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True, eq=False)
class PretrainedEncoder:
    """Weights, and what is known about their origin.

    Attributes:
        name: A short label: the run's id, the file's stem or timm's name.
        state: State dict of a timm VisionTransformer.
        grid: Of its positions.
        part: Which of the state dicts in the file. None where there is only one.
        architecture: Name of the timm model, where it is known.
        kwargs: What differs from that model.
        heads: Attention heads. None where nothing tells them.
        mean: (C,) mean of the pixels, in [0, 1], that it was trained on. None where it is not known.
        std: (C,) their standard deviation, likewise.
        assumed: What was taken from a file that does not say what it is, in a sentence. None where all is known.
    """

    name: str
    state: dict[str, Tensor] = field(repr=False)
    grid: Grid
    part: str | None = None
    architecture: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    heads: int | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    assumed: str | None = None

    @cached_property
    def structure(self) -> dict[str, Any]:
        """What the weights tell about the model; see `maskbench.models.weight_formats.infer_arguments`."""
        return infer_arguments(self.state, self.grid.size)

    @property
    def width(self) -> int:
        return self.structure["embed_dim"]

    @property
    def depth(self) -> int:
        return self.structure["depth"]

    @property
    def patch_size(self) -> int:
        return self.grid.patch

    @property
    def in_chans(self) -> int:
        return self.state["patch_embed.proj.weight"].shape[1]

    @property
    def has_class_token(self) -> bool:
        return self.structure["class_token"]

    @property
    def reg_tokens(self) -> int:
        return self.structure["reg_tokens"]

    @property
    def mlp_ratio(self) -> float:
        return self.structure["mlp_ratio"]

    @property
    def qkv_bias(self) -> bool:
        return self.structure["qkv_bias"]

    @property
    def has_layer_scale(self) -> bool:
        return self.structure["init_values"] > 0

    @cached_property
    def digest(self) -> str:
        """sha256 over the weights in order of their names, each with name, shape, type and bytes."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state.items()):
            digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def model_settings(
    pretrained: PretrainedEncoder, model_name: str | None = None, heads: int | None = None
) -> dict[str, Any]:
    """The section `model` of a configuration (name, patch_size, kwargs) for a model that the weights fit.

    Args:
        pretrained: The weights.
        model_name: The timm model to start from. Default: the known architecture, or a standard one of that width.
        heads: Attention heads, which weights do not tell. Default: as known, else the timm model's if it is as wide,
            else 1 for every 64 of the width.

    Raises:
        UsageError: Where the heads do not divide the width.
    """
    name = model_name or pretrained.architecture or STANDARD_MODELS.get(pretrained.width, "vit_tiny_patch16_224")
    kwargs = pretrained.kwargs if name == pretrained.architecture else {}
    standard, width = describe_timm_model(name, kwargs), pretrained.width
    usual = standard["num_heads"] if standard["embed_dim"] == width else max(1, width // 64)
    heads = heads or pretrained.heads or usual
    if width % heads:
        raise UsageError(f"{pretrained.name} is {width} wide, which {heads} heads do not divide; say how many it has")
    needed = {**pretrained.structure, "num_heads": heads}
    changed = {key: value for key, value in needed.items() if value != standard[key]}
    if changed.get("class_token") is False:
        changed["global_pool"] = "avg"  # timm's default pools by class token
    return {"name": name, "patch_size": pretrained.patch_size, "kwargs": {**kwargs, **changed}}


def settings_for(
    pretrained: PretrainedEncoder, model_name: str | None = None, heads: int | None = None, channels: int | None = None
) -> dict[str, Any]:
    """Settings, by dotted path, of a run on a pretrained encoder: its model, and images as it was trained on.

    Images have the size of its positions, and are normalised by the moments that it was trained with: by ImageNet's
    where nothing says how and it sees colours. With another number of channels they keep their own.

    Args:
        pretrained: The weights.
        model_name: As in `model_settings`.
        heads: As in `model_settings`.
        channels: Of the images. Default: the encoder's.
    """
    settings = {
        "data.img_size": list(pretrained.grid.image_size),
        "data.in_chans": channels or pretrained.in_chans,
        **{f"model.{key}": value for key, value in model_settings(pretrained, model_name, heads).items()},
    }
    if channels not in (None, pretrained.in_chans):
        return settings
    if pretrained.mean is not None and pretrained.std is not None:
        return settings | {"data.mean": pretrained.mean.tolist(), "data.std": pretrained.std.tolist()}
    usual = IMAGENET if pretrained.in_chans == 3 else {}
    return settings | {f"data.{name}": value for name, value in usual.items()}


def load_weights(vit: VisionTransformer, state: Mapping[str, Tensor], grid: Grid) -> None:
    """Load all of `state`, whose positions are of `grid`, into all of `vit`.

    Positions of another grid are resized as timm does it, bicubically and antialiased; those of class and register
    tokens are kept. For another number of channels see `adapt_stem`. UsageError for weights that are missing, left over
    or of another shape.
    """
    expected, weights = vit.state_dict(), dict(state)
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    if missing or extra:
        problems = [f"has no {list_some(missing)}"] * bool(missing)
        problems += [f"has {list_some(extra)}, which the model has not"] * bool(extra)
        raise UsageError(f"the encoder {' and '.join(problems)}; give the model the encoder's own settings")
    skip = 0 if vit.no_embed_class else vit.num_prefix_tokens
    if weights["pos_embed"].shape[1] == skip + grid.size:
        size = vit.patch_embed.grid_size
        weights["pos_embed"] = resize_positions(weights["pos_embed"], (grid.rows, grid.cols), size, skip)
    channels = expected["patch_embed.proj.weight"].shape[1]
    weights["patch_embed.proj.weight"] = adapt_stem(weights["patch_embed.proj.weight"], channels)
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            shapes = [" x ".join(map(str, tensor.shape)) for tensor in (value, expected[name])]
            raise UsageError(f"the encoder's {name} is {shapes[0]}, the model's {shapes[1]}; give it the same settings")
    vit.load_state_dict(weights, strict=True)


def adapt_stem(weight: Tensor, channels: int) -> Tensor:
    """The patch embedding's weights (D, C, p, p) for images of another number of channels, as timm adapts them.

    One channel: the sum over the old ones, so that a grey image is read as its colour version was. More: the old ones
    in turn, scaled by C / channels, so that outputs keep their size.
    """
    old = weight.shape[1]
    if channels == old:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % old] * (old / channels)


def describe_timm_model(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """timm's model `name` with `kwargs`, as `infer_arguments` describes it, and its num_heads.

    Read off two models too small to cost anything. UsageError where the model cannot serve.
    """

    def small(**changes: int) -> VisionTransformer:
        return build_encoder(name, Grid(2, 2, 16), 3, {**kwargs, **changes}, plain_attention=True).vit

    with torch.random.fork_rng(devices=()):
        shallow, narrow = small(depth=1), small(embed_dim=24, num_heads=1)
    heads = shallow.blocks[0].attn.num_heads
    return {**infer_arguments(shallow.state_dict(), 4), "depth": len(narrow.blocks), "num_heads": heads}
