"""Where an encoder can be read from: a run's folder, a file of weights or a timm name.

Whatever wraps the weights, they come out as the state dict of a timm `VisionTransformer`; see
maskbench.models.weight_formats.
"""

import difflib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from maskbench.config.model_arguments import check_recorded_model
from maskbench.config.plain_files import MAX_HEADER, NotPlain, parse_json
from maskbench.core.grid import Grid
from maskbench.errors import UsageError, unknown_name
from maskbench.models.encoder import timm_arguments
from maskbench.models.pretrained import PretrainedEncoder, describe_timm_model, load_weights
from maskbench.models.weight_files import read_safetensors, read_torch_file
from maskbench.models.weight_formats import (
    convert_to_timm,
    ensure_finite,
    ensure_last_norm,
    infer_arguments,
    infer_square_grid,
    list_some,
    unwrap_state,
)
from maskbench.models.weight_shapes import ensure_float
from maskbench.record import EXTERNAL, RunRecord, UnreadableRecord, locate_record, read_record

DIMENSIONS = {"pos_embed": 3, "reg_token": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}
NEEDED = ("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")  # of files of weights


def read_encoder(source: str) -> PretrainedEncoder:
    """Read an encoder. Nothing in a file is executed.

    Args:
        source: The folder of a finished run, a .safetensors file, a torch checkpoint, or a timm name such as
            vit_small_patch16_224.dino, whose weights are then downloaded.

    Raises:
        UsageError: For a checkpoint that needs more than tensors and plain data, for whatever holds no plain vision
            transformer with absolute positions, and for weights that are not finite.
    """
    encoder = _read_encoder(source)
    ensure_float(source, encoder.state)
    ensure_finite(source, encoder.state)
    return encoder


def load_encoder_into(vit: VisionTransformer, source: str, digest: str) -> None:
    """Read `source` again and load its weights into `vit`. UsageError where they are others now."""
    pretrained = read_encoder(source)
    if pretrained.digest != digest:
        raise UsageError(
            f"{source} has changed since; name it again: `maskbench probe {source}` or `run --init {source}`"
        )
    load_weights(vit, pretrained.state, pretrained.grid)


def _read_encoder(source: str) -> PretrainedEncoder:
    path = Path(source)
    if path.is_dir():
        return _read_run(path)
    if path.name in ("encoder.safetensors", "record.json") and (path.parent / "record.json").is_file():
        return _read_run(path.parent)
    if path.is_file():
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        raise UsageError(f"no file or folder {source}; give a run's folder, a file of weights or a timm model's name")
    return _read_timm(source)


def read_finished_run(folder: Path) -> tuple[RunRecord, dict[str, Tensor]]:
    """The record of a complete run and its encoder's weights. UsageError where `folder` is not that of one."""
    path = locate_record(folder)
    try:
        record = read_record(path)
    except UnreadableRecord as error:
        raise UsageError(f"{folder} is not the folder of a finished run: {error}") from None
    if record.objective["name"] == EXTERNAL:
        source = record.objective["parameters"]["source"]
        raise UsageError(f"{folder} is about an encoder from elsewhere and holds none; give its source, {source}")
    if record.status != "complete":
        raise UsageError(f"{folder} is of a run that {record.status}; give one that is complete")
    check_recorded_model(path, record.model)
    state = read_encoder_weights(path.parent)
    ensure_described(path, state, record.model)
    return record, state


def read_encoder_weights(run: Path) -> dict[str, Tensor]:
    """The weights of a finished run's encoder, by the names that timm gives them.

    Args:
        run: The run's folder, which holds a record.

    Raises:
        UsageError: There are no weights, as in folders that are shared without them, or they cannot be read.
    """
    path = run / "encoder.safetensors"
    if not path.is_file():
        raise UsageError(
            f"{run} is of a finished run, but its encoder.safetensors is not here: weights are not shipped with "
            f"records; copy the file, or make it again: maskbench rerun {shlex.quote(str(run))}"
        )
    return read_safetensors(path)[0]


def grid_from_arguments(arguments: Mapping[str, Any]) -> Grid:
    """The grid of a model that maskbench made with these `arguments` of timm's, as a record has them."""
    (height, width), patch = arguments["img_size"], arguments["patch_size"]
    return Grid(height // patch, width // patch, patch)


def ensure_described(source: object, state: Mapping[str, Tensor], model: dict[str, Any]) -> None:
    """Check that weights are those of the model that is described beside them, before it is built: a description alone
    decides nothing, least of all how much memory it takes.

    Args:
        source: Where both come from, for messages.
        state: The weights by timm's names.
        model: The description, which `check_recorded_model` has checked.

    Raises:
        UsageError: They differ in the first thing that the message names.
    """
    if missing := [name for name in NEEDED if name not in state]:
        raise UsageError(f"{source} describes a model of maskbench's, and its weights have no {list_some(missing)}")
    odd = [name for name, value in state.items() if value.ndim != DIMENSIONS.get(name, value.ndim) or not value.numel()]
    odd += [name for name in state if name.startswith("blocks.") and not re.match(r"blocks\.\d{1,3}\.", name)]
    if odd:
        raise UsageError(f"{source}: the weights {list_some(odd)} are of no model's name or shape")
    arguments, grid = model["arguments"], grid_from_arguments(model["arguments"])
    projection, found = state["patch_embed.proj.weight"].shape, infer_arguments(state, grid.size)
    prefix = 0 if found["no_embed_class"] else found["class_token"] + found["reg_tokens"]
    found |= {"patch_size": projection[2], "in_chans": projection[1], "patches": state["pos_embed"].shape[1] - prefix}
    described: dict[str, Any] = {**arguments, "patches": grid.size}
    _ensure_same(source, found, described)  # before anything is built in the size that is described
    kwargs = {key: value for key, value in arguments.items() if key not in timm_arguments(grid, 1, {})}
    _ensure_same(source, found, describe_timm_model(model["name"], kwargs))


def _ensure_same(source: object, found: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """UsageError for the first of what the weights tell that the description says otherwise."""
    for name in found.keys() & described.keys() - {"init_values"}:  # of which the weights only tell whether
        ours, theirs = found[name], described[name]
        if abs(ours - theirs) > (1 / found["embed_dim"] if name == "mlp_ratio" else 0):  # rounded to whole units
            raise UsageError(f"{source} describes {name}={theirs}, its weights have {ours}; copy both again")


def _read_run(folder: Path) -> PretrainedEncoder:
    record, state = read_finished_run(folder)
    return _from_maskbench(record.run_id, state, record.model, record.dataset)


def _from_maskbench(
    name: str, state: dict[str, Tensor], model: dict[str, Any], data: dict[str, Any]
) -> PretrainedEncoder:
    """An encoder that maskbench wrote. model, data: as in its record; no mean and std where the data are not known."""
    arguments = model["arguments"]
    grid = grid_from_arguments(arguments)
    implied = timm_arguments(grid, arguments["in_chans"], {})
    kwargs = {key: value for key, value in arguments.items() if key not in implied}
    heads = describe_timm_model(model["name"], kwargs)["num_heads"]
    mean, std = (_read_moment(name, data, key, arguments["in_chans"]) for key in ("mean", "std"))
    return PretrainedEncoder(name, state, grid, None, model["name"], kwargs, heads, mean, std)


def _read_moment(name: str, data: Any, key: str, channels: int) -> Tensor | None:
    """A mean or standard deviation by channel. UsageError where it is none."""
    values = data.get(key) if isinstance(data, Mapping) else None
    if values is None:
        return None
    numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    if not numbers or len(values) != channels or (key == "std" and min(values) <= 0):
        raise UsageError(f"{name}: the {key} of its data is no list of {channels} numbers; copy the file again")
    return torch.tensor(values, dtype=torch.float32)


def _read_timm(name: str) -> PretrainedEncoder:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(name, timm.list_pretrained("vit*"), n=2)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        kinds = "a run's folder, a file of weights, or a timm model such as vit_small_patch16_224.dino"
        raise UsageError(f"no folder, file or timm model {name!r}.{guess} Give {kinds}")
    describe_timm_model(architecture, {})  # UsageError for an unsupported model, before anything is downloaded
    weights = timm.list_pretrained(f"{architecture}.*")
    if not weights:
        raise UsageError(f"timm has no weights for {architecture}; give a file of them, or another model")
    if name not in (architecture, *weights):
        raise unknown_name("timm weights", name, weights)
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of whichever library downloads, in whichever version
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot get {name} ({reason}); download its weights elsewhere and give the file") from None
    state = vit.state_dict()
    ensure_last_norm(name, state)
    rows, cols = vit.patch_embed.grid_size
    grid = Grid(rows, cols, vit.patch_embed.patch_size[0])
    mean, std = (torch.tensor(vit.pretrained_cfg[key]) for key in ("mean", "std"))
    return PretrainedEncoder(name, state, grid, None, architecture, {}, vit.blocks[0].attn.num_heads, mean, std)


def _read_safetensors(path: Path) -> PretrainedEncoder:
    state, metadata = read_safetensors(path)
    if metadata.get("model", "").startswith('{"name": '):  # as maskbench writes it
        model, data = (_read_header(path, metadata.get(key, "{}")) for key in ("model", "dataset"))
        check_recorded_model(path, model)
        ensure_described(path, state, model)
        return _from_maskbench(path.stem, state, model, data)
    return _from_weights(path, *unwrap_state(state))


def _read_header(path: Path, text: str) -> Any:
    """What maskbench wrote into the header of a file of weights."""
    if len(text) > MAX_HEADER:
        raise UsageError(f"{path} has a header of {len(text):,} characters; copy the file again")
    try:
        return parse_json(text)
    except NotPlain as reason:
        raise UsageError(f"{path} has a header that cannot be read ({reason}); copy the file again") from None


def _read_checkpoint(path: Path) -> PretrainedEncoder:
    content = read_torch_file(path)
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, no weights by name; save the model's state dict")
    return _from_weights(path, *unwrap_state(content))


def _from_weights(path: Path, content: Mapping[Any, Any], part: str | None) -> PretrainedEncoder:
    state = convert_to_timm(path, content)
    norm = state.get("blocks.0.attn.q_norm.weight")  # as wide as a head
    heads = None if norm is None else state["patch_embed.proj.weight"].shape[0] // norm.shape[0]
    grid = infer_square_grid(path, state)
    assumed = (
        f"{path}: read {part or 'the whole file'}; its positions are assumed to be those of {grid.rows} x {grid.cols} "
        f"patches of {grid.patch} pixels"
    )
    return PretrainedEncoder(path.stem, state, grid, part, heads=heads, assumed=assumed)
