"""The settings that pretrained weights decide: of `maskbench probe ENCODER`, and of `maskbench run --init WEIGHTS`."""

from typing import TYPE_CHECKING, Any

from maskbench.errors import UsageError

if TYPE_CHECKING:
    from maskbench.models.pretrained import PretrainedEncoder


def external_settings(
    foreign: "PretrainedEncoder", source: str, model: str | None, heads: int | None, channels: int | None = None
) -> dict[str, Any]:
    """Settings, by dotted path, of a run that only probes. model, heads, channels: as in `settings_for`."""
    from maskbench.models.pretrained import settings_for

    return {
        "strategy": "none",
        "objective": {"name": "external", "parameters": _identify(foreign, source)},
        **settings_for(foreign, model, heads, channels),
    }


def init_settings(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Settings, by dotted path, of runs that start from the weights of `source`; `options` have the last word, and a
    model that they name is the one that the weights fit."""
    from maskbench.models.encoder_sources import read_encoder
    from maskbench.models.pretrained import settings_for

    foreign = read_encoder(source)
    own = settings_for(foreign, options.get("model.name"), None, options.get("data.in_chans"))
    patch = options.get("model.patch_size", foreign.patch_size)
    if patch != foreign.patch_size:
        raise UsageError(f"{source} has patches of {foreign.patch_size} px, not {patch}; drop --patch-size")
    given = {path: value for path, value in options.items() if path != "model.name"}
    return {**own, "model.init": _identify(foreign, source), **given}


def _identify(foreign: "PretrainedEncoder", source: str) -> dict[str, str]:
    """Where the weights are, and by what they are known."""
    return {"source": source, "label": foreign.name, "digest": foreign.digest, "part": foreign.part or ""}
