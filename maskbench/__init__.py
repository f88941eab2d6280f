"""maskbench: compare ways of hiding or degrading images for pre-training vision transformers.

Importing it is cheap: torch and everything else heavy is imported when a public name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from maskbench._version import __version__

if TYPE_CHECKING:
    from maskbench.analysis.results import load_results as load_results
    from maskbench.api import create_strategy as create_strategy
    from maskbench.api import list_strategies as list_strategies
    from maskbench.api import load_encoder as load_encoder
    from maskbench.api import run as run
    from maskbench.strategy import register as register
    from maskbench.training.degrade import degrade as degrade
    from maskbench.training.masking import Masking as Masking
    from maskbench.training.recovery_loss import patch_losses as patch_losses
    from maskbench.training.recovery_loss import recovery_loss as recovery_loss

_PUBLIC = {
    "Masking": "maskbench.training.masking",
    "create_strategy": "maskbench.api",
    "degrade": "maskbench.training.degrade",
    "list_strategies": "maskbench.api",
    "load_encoder": "maskbench.api",
    "load_results": "maskbench.analysis.results",
    "run": "maskbench.api",
    "patch_losses": "maskbench.training.recovery_loss",
    "recovery_loss": "maskbench.training.recovery_loss",
    "register": "maskbench.strategy",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'maskbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
