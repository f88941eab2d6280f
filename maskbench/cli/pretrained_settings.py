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

    named = {"source": source, "label": foreign.name, "digest": foreign.digest, "part": foreign.part or ""}
    return {
        "strategy": "none",
        "objective": {"name": "external", "parameters": named},
        **settings_for(foreign, model, heads, channels),
    }


def init_settings(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Settings, by dotted path, of runs that start from the weights of `source`; `options` have the last word, and a
    model that they name is the one that the weights fit."""
    from maskbench.models.encoder_sources import read_encoder
    from maskbench.models.pretrained import settings_for

    foreign = read_encoder(source)
    own = settings_for(foreign, options.get("model.name"), None, options.get("data.in_chans"))
    init = {"source": source, "label": foreign.name, "digest": foreign.digest, "part": foreign.part or ""}
    patch = options.get("model.patch_size", foreign.patch_size)
    if patch != foreign.patch_size:
        raise UsageError(f"{source} has patches of {foreign.patch_size} px, not {patch}; drop --patch-size")
    given = {path: value for path, value in options.items() if path != "model.name"}
    return {**own, "model.init": init, **given}
