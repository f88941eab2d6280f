"""torchvision's small data sets as timm names them: torch/cifar10, torch/mnist, ... Never fetched inside a run."""

import io
from pathlib import Path
from typing import Any

from maskbench.data import cache
from maskbench.data.encoded_images import Encoded, Flat
from maskbench.errors import UsageError, unknown

PREFIX = "torch/"
NAMES = tuple(PREFIX + name for name in ("cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "qmnist"))
PARTS = {"train": "train", "test": "validation"}  # our split -> timm's name for it


def folder(data_dir: str | None) -> Path:
    """Where downloads are kept: `data_dir`, else the cache folder."""
    return Path(data_dir) if data_dir else cache.folder() / "downloads"


def fetch(dataset: str, data_dir: str | None) -> None:
    """Download `dataset` if it is not there yet; UsageError where that fails."""
    for part in PARTS.values():
        _open(dataset, folder(data_dir), part, download=True)


def read(dataset: str, data_dir: str | None, flat: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Splits, written to `flat`, and class names of a downloaded data set; UsageError with the remedy where it is not
    there."""
    unpacked, splits, classes = Flat(flat), {}, ()
    for name, part in PARTS.items():
        source = _open(dataset, folder(data_dir), part, download=False)
        classes = tuple(source.classes)
        splits[name] = unpacked.split(
            (f"image {number} of {dataset} {name}", int(label), _bmp(image))
            for number, (image, label) in enumerate(source)
        )
    return splits, classes


def _bmp(image: Any) -> bytes:
    """Lossless, and the same bytes everywhere: they are fingerprinted."""
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def _open(dataset: str, root: Path, part: str, *, download: bool) -> Any:
    if dataset not in NAMES:
        raise unknown("data set", dataset, NAMES)
    from timm.data import create_dataset

    if download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        return create_dataset(dataset, root=str(root), split=part, download=download)
    except (RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        if download:
            raise UsageError(f"cannot download {dataset} to {root}: {reason}; give a path to a local copy") from None
        raise UsageError(f"{dataset} is not in {root}: add --download to `maskbench run`, or give a path") from None
