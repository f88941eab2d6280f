"""A strategy and its test to start from, for `maskbench new`."""

import re
from importlib import resources
from pathlib import Path
from string import Template

from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import write_atomically
from maskbench.strategy import REGISTRY


def scaffold(name: str, folder: Path) -> tuple[Path, Path]:
    """Write <name>.py and test_<name>.py to `folder`; their paths. UsageError for a name that is taken or no
    kebab-case, and where a file exists."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is not kebab-case, e.g. my-mask")
    if name in REGISTRY.names():
        raise UsageError(f"strategy {name!r} is taken by {REGISTRY.origin(name)}; choose another name")
    module = name.replace("-", "_")
    words = {"name": name, "module": module, "cls": "".join(part.capitalize() for part in name.split("-"))}
    paths = folder / f"{module}.py", folder / f"test_{module}.py"
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists; remove it or choose another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, template in zip(paths, ("strategy.txt", "test.txt"), strict=True):
        text = resources.files("maskbench.templates").joinpath(template).read_text()
        write_atomically(path, Template(text).substitute(words))
    return paths
