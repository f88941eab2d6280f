"""A strategy and its test to start from, for `maskbench new`."""

import importlib.util
import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template

from maskbench.errors import UsageError, quoted
from maskbench.runtime.atomic_files import write_atomically
from maskbench.strategy import REGISTRY

USED = ("Context", "Ratio", "Strategy", "Tensor", "View")  # names that the template imports


def scaffold(name: str, folder: Path) -> tuple[Path, Path]:
    """Write <name>.py and test_<name>.py to `folder`; their paths. UsageError for a name that is taken or no
    kebab-case, and where a file exists."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{quoted(name)} is not kebab-case, e.g. my-mask")
    if name in REGISTRY.names():
        raise UsageError(f"strategy {name!r} is taken by {REGISTRY.origin(name)}; choose another name")
    module, cls = name.replace("-", "_"), "".join(part.capitalize() for part in name.split("-"))
    words = {"name": name, "module": module, "cls": cls}
    if keyword.iskeyword(module) or keyword.iskeyword(cls) or cls in USED:
        raise UsageError(f"{name!r} is a word of Python or of the template; choose another name, e.g. my-{name}")
    paths = folder / f"{module}.py", folder / f"test_{module}.py"
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists; remove it or choose another --folder")
    if _is_importable(module):
        raise UsageError(f"{module}.py would hide the package {module}; choose another name, e.g. my-{name}")
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in zip(paths, ("strategy.txt", "test.txt"), strict=True):
        text = resources.files("maskbench.templates").joinpath(template).read_text()
        write_atomically(path, Template(text).substitute(words))
    return paths


def _is_importable(module: str) -> bool:
    """Whether a module of Python or of an installed package has this name, which a file of the same name would hide."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return True
