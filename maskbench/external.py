"""What `maskbench probe` makes of an encoder from elsewhere: the settings of a run that only probes."""

from typing import Any

from maskbench.foreign import ForeignEncoder, model_settings

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def external_settings(foreign: ForeignEncoder, source: str, model: str | None, heads: int | None) -> dict[str, Any]:
    """Settings by dotted path. Images are of the size of its positions and normalised as it was trained, by ImageNet's
    moments where nobody says how and it sees colours. model, heads: as in `model_settings`."""
    grid = foreign.grid
    named = {"source": source, "label": foreign.name, "digest": foreign.digest}
    settings = {
        "strategy": "none",
        "objective": {"name": "external", "parameters": named},
        "data.img_size": list(grid.image_size),
        "data.in_chans": foreign.in_chans,
        **{f"model.{key}": value for key, value in model_settings(foreign, model, heads).items()},
    }
    if foreign.mean is not None and foreign.std is not None:
        return settings | {"data.mean": foreign.mean.tolist(), "data.std": foreign.std.tolist()}
    return settings | ({f"data.{name}": value for name, value in IMAGENET.items()} if foreign.in_chans == 3 else {})
