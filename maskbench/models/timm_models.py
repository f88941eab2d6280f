"""timm's models by name: the one place where a name or arguments that come from a file reach timm."""

from collections.abc import Mapping
from typing import Any

import timm

from maskbench.config.model_arguments import MODEL_NAME
from maskbench.errors import unknown_name


def create_timm_model(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build timm's model `name` without weights. No file is opened and nothing is downloaded.

    Args:
        name: A model that timm registers. `hf-hub:` and `local-dir:` names, which are addresses, are refused.
        arguments: Of the model, as `maskbench.config.model_arguments` has checked them.

    Raises:
        UsageError: The name is unknown.
        TypeError, AssertionError: The model does not take the arguments.
    """
    ensure_known_model(name)
    return timm.create_model(name, pretrained=False, **arguments)


def ensure_known_model(name: str) -> None:
    """UsageError unless `name` is a model that timm registers, alone or with the name of its weights."""
    if not isinstance(name, str) or not MODEL_NAME.fullmatch(name) or not timm.is_model(name):
        raise unknown_name("model", str(name)[:80], timm.list_models("vit*"))
    architecture, _, weights = name.partition(".")
    if weights and name not in (known := timm.list_pretrained(f"{architecture}.*")):
        raise unknown_name("weights of a model:", name, [architecture, *known])
