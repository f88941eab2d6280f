"""One spelling for the path of a data set, so that `./tex`, `./tex/` and its absolute path are one run."""

import os
from pathlib import Path

PREFIXES = ("torch/", "wds/", "hfds/")  # of names; all else with a slash is a path
GENERATED = "shapes"


def spell_dataset(dataset: str, data_dir: str | None) -> str:
    """The name of a data set with its path, if it has one, spelled as `spell_path` does.

    Args:
        dataset: `shapes`, torch/NAME, hfds/NAME, wds/FOLDER, or a path.
        data_dir: What the folder in wds/... is relative to. Default: the working directory.
    """
    prefix, path = split_dataset(dataset)
    if path is None:
        return dataset
    if not prefix:
        return spell_path(path)
    spelled = spell_path(path, data_dir if prefix == "wds/" else None)
    return prefix + spelled.removeprefix("./")


def split_dataset(dataset: str) -> tuple[str, str | None]:
    """The prefix of a data set's name, and the path in it; None where it is no path on this machine."""
    prefix = next((prefix for prefix in PREFIXES if dataset.startswith(prefix)), "")
    path = dataset.removeprefix(prefix)
    is_path = {
        "": "/" in path or (path != GENERATED and os.path.isdir(path)),  # noqa: PTH112  False also for a long name
        "wds/": True,
        "hfds/": os.path.isdir(path),  # noqa: PTH112
    }
    return prefix, path if is_path.get(prefix, False) else None


def spell_path(path: str, base: str | None = None) -> str:
    """`./tex` or `../tex` for a path below or near the folder `base`, by default the working directory.

    A relative path stays relative. An absolute one becomes relative, unless it has nothing in common with `base` but
    the root: then it is the same from everywhere, and stays so. `..` behind a link is left as it is.
    """
    path = str(Path(path).expanduser()) if path.startswith("~") else path
    normal = os.path.normpath(path)
    if os.path.realpath(normal) != os.path.realpath(path):  # `..` behind a link
        return path.rstrip("/")
    if Path(normal).is_absolute():
        bases = [str(Path(base).absolute())] if base else _names_of_working_directory()
        near = [folder for folder in bases if os.path.commonpath([folder, normal]) != os.sep]
        if not near:
            return normal
        normal = min((os.path.relpath(normal, folder) for folder in near), key=len)
    return normal if normal.split("/")[0] in ("..", "") else f"./{normal}"


def _names_of_working_directory() -> list[str]:
    """Its path, and the one by which a shell came here, through links perhaps. PWD is of the shell, so that a program
    which starts this one elsewhere leaves it behind: then it is another folder's."""
    here, shells = str(Path.cwd()), os.environ.get("PWD", "")
    return [here, shells] if shells and os.path.realpath(shells) == os.path.realpath(here) else [here]
