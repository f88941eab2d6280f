"""maskbench: compare ways of hiding or degrading images for pre-training vision transformers.

Importing it is cheap: torch and everything else heavy is imported when a public name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maskbench.analysis.results import load_results as load_results
    from maskbench.library import create_strategy as create_strategy
    from maskbench.library import degrade as degrade
    from maskbench.library import list_strategies as list_strategies
    from maskbench.library import load_encoder as load_encoder
    from maskbench.library import run as run
    from maskbench.strategy import register as register

_PUBLIC = {
    "create_strategy": "maskbench.library",
    "degrade": "maskbench.library",
    "list_strategies": "maskbench.library",
    "load_encoder": "maskbench.library",
    "load_results": "maskbench.analysis.results",
    "run": "maskbench.library",
    "register": "maskbench.strategy",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'maskbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
