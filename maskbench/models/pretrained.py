"""Encoders from elsewhere: of a run's folder, of a file of weights in a layout that is about, or of timm by name.

Whatever wraps it, what is read comes out as the state dict of a timm `VisionTransformer`; see
maskbench.models.weight_formats.
"""

import difflib
import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import UsageError, unknown
from maskbench.models.encoder import build_encoder, create_arguments
from maskbench.models.weight_formats import has_last_norm, some, square_grid, structure, timm_state, unwrapped
from maskbench.record import EXTERNAL, RunRecord, Unreadable, read_record

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
STANDARD = {
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
}  # by width; vit_tiny_patch16_224 for any other


@dataclass(frozen=True, eq=False)
class ForeignEncoder:
    """Weights, and what is known of where they come from.

    name: a short label: the run, the file or timm's name. state: of a timm VisionTransformer. grid: of its positions.
    part: which of the states in the file, None where it is the only one. architecture, kwargs: the timm model and what
    was changed in it, where they are known. heads: None where nothing tells them. mean, std: (C,) of the pixels in
    [0, 1] that it was trained on, None where they are not known.
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

    @cached_property
    def structure(self) -> dict[str, Any]:
        """See `maskbench.models.weight_formats.structure`."""
        return structure(self.state, self.grid.size)

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
        found = hashlib.sha256()
        for name, value in sorted(self.state.items()):
            found.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            found.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


def read_encoder(source: str) -> ForeignEncoder:
    """The encoder in the folder of a finished run, in a .safetensors file, in a torch checkpoint, or of timm's name,
    such as vit_small_patch16_224.dino, whose weights are downloaded.

    Nothing in a file is run: a checkpoint that needs more than tensors and plain data is refused. UsageError for that,
    and for whatever holds no plain vision transformer with absolute positions.
    """
    path = Path(source)
    if path.is_dir():
        return _of_run(path)
    if path.name == "encoder.safetensors" and (path.parent / "record.json").is_file():
        return _of_run(path.parent)
    if path.is_file():
        return _of_safetensors(path) if path.suffix == ".safetensors" else _of_checkpoint(path)
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        raise UsageError(f"no file or folder {source}; give a run's folder, a file of weights or a timm model's name")
    return _of_timm(source)


def model_settings(foreign: ForeignEncoder, model_name: str | None = None, heads: int | None = None) -> dict[str, Any]:
    """`name`, `patch_size` and `kwargs`, as the section `model` of a configuration has them, of a model that the state
    fits: timm's `model_name`, with what differs from it.

    heads: of the attention, which weights do not tell. If they are not known: the model's, where it is as wide; else 1
    for every 64 of the width. UsageError where they do not divide the width.
    """
    name = model_name or foreign.architecture or STANDARD.get(foreign.width, "vit_tiny_patch16_224")
    kwargs = foreign.kwargs if name == foreign.architecture else {}
    entry, width = _entry(name, kwargs), foreign.width
    usual = entry["num_heads"] if entry["embed_dim"] == width else max(1, width // 64)
    heads = heads or foreign.heads or usual
    if width % heads:
        raise UsageError(f"{foreign.name} is {width} wide, which {heads} heads do not divide; say how many it has")
    wanted = {**foreign.structure, "num_heads": heads}
    changed = {key: value for key, value in wanted.items() if value != entry[key]}
    if changed.get("class_token") is False:
        changed["global_pool"] = "avg"  # timm's default pools by class token
    return {"name": name, "patch_size": foreign.patch_size, "kwargs": {**kwargs, **changed}}


def load_into(vit: VisionTransformer, state: Mapping[str, Tensor], grid: Grid) -> None:
    """Load all of `state`, whose positions are of `grid`, into all of `vit`. Positions of another grid are resized as
    timm does it, bicubically and antialiased; those of class and register tokens are kept. UsageError for weights that
    are missing, left over or of another shape."""
    wanted, fitting = vit.state_dict(), dict(state)
    lacks = [name for name in wanted if name not in fitting]
    extra = [name for name in fitting if name not in wanted]
    if lacks or extra:
        said = [f"has no {some(lacks)}"] * bool(lacks) + [f"has {some(extra)}, which the model has not"] * bool(extra)
        raise UsageError(f"the encoder {' and '.join(said)}; give the model the encoder's own settings")
    skip = 0 if vit.no_embed_class else vit.num_prefix_tokens
    if fitting["pos_embed"].shape[1] == skip + grid.size:
        size = list(vit.patch_embed.grid_size)
        fitting["pos_embed"] = resample_abs_pos_embed(fitting["pos_embed"], size, [grid.rows, grid.cols], skip)
    for name, value in fitting.items():
        if value.shape != wanted[name].shape:
            shapes = [" x ".join(map(str, tensor.shape)) for tensor in (value, wanted[name])]
            raise UsageError(f"the encoder's {name} is {shapes[0]}, the model's {shapes[1]}; give it the same settings")
    vit.load_state_dict(fitting, strict=True)


def finished_run(folder: Path) -> tuple[RunRecord, dict[str, Tensor]]:
    """The record of a complete run and its encoder's weights. UsageError where `folder` is not that of one."""
    try:
        record = read_record(folder / "record.json")
        if record.objective["name"] == EXTERNAL:
            source = record.objective["parameters"]["source"]
            raise UsageError(f"{folder} is about an encoder from elsewhere and holds none; give its source, {source}")
        state = load_file(folder / "encoder.safetensors")
    except (Unreadable, OSError, SafetensorError) as error:
        raise UsageError(f"{folder} is not the folder of a finished run: {error}") from None
    if record.status != "complete":
        raise UsageError(f"{folder} is of a run that {record.status}; give one that is complete")
    return record, state


def grid_of(arguments: Mapping[str, Any]) -> Grid:
    """The grid of a model that maskbench made with these `arguments` of timm's, as a record has them."""
    (height, width), patch = arguments["img_size"], arguments["patch_size"]
    return Grid(height // patch, width // patch, patch)


def _entry(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's `name` is with `kwargs`: `structure` and num_heads, read off two models too small to cost anything.
    UsageError where it cannot serve."""

    def small(**changes: int) -> VisionTransformer:
        return build_encoder(name, Grid(2, 2, 16), 3, {**kwargs, **changes}, plain_attention=True).vit

    with torch.random.fork_rng(devices=()):
        shallow, narrow = small(depth=1), small(embed_dim=24, num_heads=1)
    heads = shallow.blocks[0].attn.num_heads
    return {**structure(shallow.state_dict(), 4), "depth": len(narrow.blocks), "num_heads": heads}


def _of_run(folder: Path) -> ForeignEncoder:
    record, state = finished_run(folder)
    return _of_maskbench(record.run_id, state, record.model, record.dataset)


def _of_maskbench(name: str, state: dict[str, Tensor], model: dict[str, Any], data: dict[str, Any]) -> ForeignEncoder:
    """model, data: as a record has them; no moments where the data are not known."""
    arguments = model["arguments"]
    grid = grid_of(arguments)
    always = create_arguments(grid, arguments["in_chans"], {})
    kwargs = {key: value for key, value in arguments.items() if key not in always}
    heads = _entry(model["name"], kwargs)["num_heads"]
    mean, std = (torch.tensor(data[key]) if key in data else None for key in ("mean", "std"))
    return ForeignEncoder(name, state, grid, None, model["name"], kwargs, heads, mean, std)


def _of_timm(name: str) -> ForeignEncoder:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(name, timm.list_pretrained("vit*"), n=2)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        kinds = "a run's folder, a file of weights, or a timm model such as vit_small_patch16_224.dino"
        raise UsageError(f"no folder, file or timm model {name!r}.{guess} Give {kinds}")
    _entry(architecture, {})  # can it serve at all? before anything is downloaded
    weights = timm.list_pretrained(f"{architecture}.*")
    if not weights:
        raise UsageError(f"timm has no weights for {architecture}; give a file of them, or another model")
    if name not in (architecture, *weights):
        raise unknown("timm weights", name, weights)
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of whichever library downloads, in whichever version
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot get {name} ({reason}); download its weights elsewhere and give the file") from None
    state = vit.state_dict()
    has_last_norm(name, state)
    rows, cols = vit.patch_embed.grid_size
    grid = Grid(rows, cols, vit.patch_embed.patch_size[0])
    mean, std = (torch.tensor(vit.pretrained_cfg[key]) for key in ("mean", "std"))
    return ForeignEncoder(name, state, grid, None, architecture, {}, vit.blocks[0].attn.num_heads, mean, std)


def _of_safetensors(path: Path) -> ForeignEncoder:
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read as safetensors ({error}); copy it again") from None
    if about.get("model", "").startswith('{"name": '):  # as maskbench writes it
        return _of_maskbench(path.stem, state, json.loads(about["model"]), json.loads(about.get("dataset", "{}")))
    return _of_weights(path, state, None)


def _of_checkpoint(path: Path) -> ForeignEncoder:
    content = _unpickled(path)
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, no weights by name; save the model's state dict")
    return _of_weights(path, *unwrapped(content))


def _of_weights(path: Path, content: Mapping[Any, Any], part: str | None) -> ForeignEncoder:
    state = timm_state(path, content)
    norm = state.get("blocks.0.attn.q_norm.weight")  # as wide as a head
    heads = None if norm is None else state["patch_embed.proj.weight"].shape[0] // norm.shape[0]
    return ForeignEncoder(path.stem, state, square_grid(path, state), part, heads=heads)


def _unpickled(path: Path) -> Any:
    """What a torch checkpoint holds, as far as that can be had without running anything that it brings.

    argparse.Namespace, which MAE and DINO put beside their weights, only holds what it is given: it is let through.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind makes torch raise KeyError, EOFError and many more
        needs = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
        if needs is None:
            raise UsageError(
                f"{path} cannot be read as a torch checkpoint ({type(error).__name__}): it is cut off, or another kind "
                "of file; copy it again, or give .safetensors"
            ) from None
        raise UsageError(
            f"{path} needs {needs[1]} to be unpickled, which can run anything; only tensors, plain data and "
            "argparse.Namespace are read: if you trust the file, save its state dict alone and give that"
        ) from None
