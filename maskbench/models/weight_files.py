"""Reading files of weights: tensors and plain data alone, of the sizes that they have. Nothing in them is executed."""

import re
from argparse import Namespace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskbench.errors import UsageError
from maskbench.runtime.regular_files import MIB, ensure_regular, open_regular
from maskbench.runtime.torch_archives import ensure_own_storage, ensure_plain_archive

MAX_FILE = 2**16 * MIB  # bytes; the largest published vision transformer has 22 billion weights, of 2 bytes each


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a .safetensors file.

    Raises:
        UsageError: One line that names the file, where it is no such file, is cut off, or is none that is regular.
    """
    try:
        ensure_regular(path.stat(), path, MAX_FILE)
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not iterable
            return tensors, file.metadata() or {}
    except Exception as error:  # a type that this torch lacks is an AttributeError
        raise UsageError(f"{path} cannot be read as safetensors ({_reason(error)}); copy it again") from None


def _reason(error: Exception) -> str:
    """In a few words; what torch and pickle raise for damaged bytes says little more than its kind."""
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    is_said = isinstance(error, OSError | ValueError | SafetensorError) and text
    return " ".join(text.split())[:200] if is_said else type(error).__name__


def read_torch_file(path: Path) -> Any:
    """What a torch checkpoint holds.

    argparse.Namespace, which MAE and DINO put beside their weights, only holds values: it is allowed.

    Raises:
        UsageError: One line that names the file, where it is no such file, is cut off, needs other classes, or says
            that it holds more than it does.
    """
    try:
        with open_regular(path, MAX_FILE) as opened:
            ensure_plain_archive(opened)
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        ensure_own_storage(content)
    except Exception as error:  # a file of another kind makes torch raise KeyError, EOFError and many more
        forbidden = re.search(r"GLOBAL (\S{1,100})", str(error)) if isinstance(error, UnpicklingError) else None
        if forbidden is None:
            raise UsageError(
                f"{path} cannot be read as a torch checkpoint ({_reason(error)}): it is cut off, or another kind "
                "of file; copy it again, or give .safetensors"
            ) from None
        raise UsageError(
            f"{path} needs {forbidden[1]} to be unpickled, which can run anything; only tensors, plain data and "
            "argparse.Namespace are read: if you trust the file, save its state dict alone and give that"
        ) from None
    return content
