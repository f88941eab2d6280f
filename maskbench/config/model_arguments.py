"""The arguments that a configuration, a record or a file of weights may pass to `timm.create_model`.

That function takes more than a model's shape: paths of files that it unpickles, addresses from which it downloads. So
arguments that come from a file are held against a list, by name, type and range.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskbench.config.plain_files import shorten
from maskbench.errors import UsageError, unknown_name

MAX_PARAMETERS = 30_000_000_000  # of an encoder; the largest published vision transformer has 22 billion
MAX_TOKENS = 1 << 20  # patches of an image
MODEL_NAME = re.compile(r"[a-z0-9_]{1,100}(\.[a-z0-9_]{1,100})?")  # of timm, with or without its weights' name

Rate = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=1, le=4096)]


class Architecture(BaseModel):
    """The arguments of timm's `VisionTransformer` that `model.kwargs` may have. Its other arguments are settings of
    their own, or would do nothing or harm here: the encoder takes its tokens one by one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    embed_dim: Annotated[int, Field(ge=1, le=8192)] = 768
    depth: Annotated[int, Field(ge=1, le=512)] = 12
    num_heads: Annotated[int, Field(ge=1, le=512)] = 12
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] = 4.0
    qkv_bias: bool = True
    proj_bias: bool = True
    qk_norm: bool = False
    scale_attn_norm: bool = False
    scale_mlp_norm: bool = False
    init_values: Annotated[float, Field(ge=0, le=100)] | None = None
    class_token: bool = True
    global_pool: Literal["", "token", "avg", "max", "avgmax"] = "token"
    pool_include_prefix: bool = False
    no_embed_class: bool = False
    reg_tokens: Annotated[int, Field(ge=0, le=1024)] = 0
    pos_embed: Literal["learn"] = "learn"
    pre_norm: bool = False
    final_norm: bool = True
    drop_rate: Rate = 0.0
    pos_drop_rate: Rate = 0.0
    proj_drop_rate: Rate = 0.0
    attn_drop_rate: Rate = 0.0
    drop_path_rate: Rate = 0.0
    norm_layer: Literal["layernorm", "layernormfp32", "rmsnorm", "rmsnormfp32", "simplenorm"] | None = None
    act_layer: (
        Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu6", "leaky_relu", "silu", "swish", "mish", "elu"] | None
    ) = None
    weight_init: Literal["", "skip", "reset", "jax", "jax_nlhb", "moco"] = ""
    fix_init: bool = False


class RecordedArguments(Architecture):
    """All arguments of the model in a record or beside an encoder's weights, as maskbench writes them."""

    img_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    patch_size: Side
    in_chans: Annotated[int, Field(ge=1, le=64)]
    num_classes: Literal[0]
    fc_norm: Literal[False]


ELSEWHERE = {
    "img_size": "data.img_size",
    "patch_size": "model.patch_size",
    "in_chans": "data.in_chans",
}  # settings of their own


def check_model_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Check a configuration's `model.kwargs`.

    Raises:
        UsageError: One line for the first argument that is no architecture's, of another type, or out of range.
    """
    if own := next((name for name in kwargs if name in ELSEWHERE), None):
        raise UsageError(f"model.kwargs has {own}, which is a setting of its own; give {ELSEWHERE[own]}")
    _check("model.kwargs", kwargs, Architecture)


def check_recorded_model(source: object, model: Any) -> None:
    """Check `model`, the name and arguments of an encoder as a record or a file of weights gives them.

    Raises:
        UsageError: One line that begins with `source`, where they are not those of a model of maskbench's.
    """
    name, arguments = (model.get(key) for key in ("name", "arguments")) if isinstance(model, Mapping) else (None, None)
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise UsageError(f"{source} names no model: it needs a name and arguments, as maskbench writes them")
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(f"{source} names the model {shorten(name)}, which is no name of timm's")
    _check(f"{source}: its model", arguments, RecordedArguments)
    rows, cols = (side // arguments["patch_size"] for side in arguments["img_size"])
    if not 1 <= rows * cols <= MAX_TOKENS:
        raise UsageError(f"{source}: its model has {rows} x {cols} patches; 1 to {MAX_TOKENS:,} are possible")


def _check(where: str, arguments: Mapping[str, Any], allowed: type[Architecture]) -> None:
    try:
        found = allowed.model_validate(dict(arguments))
    except ValidationError as error:
        detail = error.errors()[0]
        name = str(detail["loc"][0]) if detail["loc"] else ""
        if detail["type"] == "extra_forbidden":
            raise unknown_name(f"argument in {where}:", name[:80], allowed.model_fields) from None
        if detail["type"] == "missing":
            raise UsageError(f"{where} lacks {name}, which maskbench always writes") from None
        message = detail["msg"].removeprefix("Input should be ")
        raise UsageError(f"{where}: {name}={shorten(detail['input'])} should be {message}") from None
    parameters = found.depth * found.embed_dim**2 * (4 + 2 * found.mlp_ratio)
    if parameters > MAX_PARAMETERS:
        raise UsageError(
            f"{where}: embed_dim={found.embed_dim}, depth={found.depth} and mlp_ratio={found.mlp_ratio:g} make "
            f"{parameters / 1e9:.0f} billion parameters; at most {MAX_PARAMETERS / 1e9:.0f} are possible"
        )
