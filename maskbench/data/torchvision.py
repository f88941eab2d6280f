"""torchvision's small data sets as timm names them: torch/cifar10, torch/mnist, ... A run never downloads them."""

import io
from pathlib import Path
from typing import Any

from maskbench.data.cache import cache_folder
from maskbench.data.encoded_images import EncodedImageWriter
from maskbench.data.image_source import EncodedDataset, ImageSource
from maskbench.errors import UsageError, unknown_name

PREFIX = "torch/"
FOLDERS = {  # of torchvision, below the folder of downloads
    "torch/cifar10": "cifar-10-batches-py",
    "torch/cifar100": "cifar-100-python",
    "torch/fashion_mnist": "FashionMNIST/raw",
    "torch/kmnist": "KMNIST/raw",
    "torch/mnist": "MNIST/raw",
    "torch/qmnist": "QMNIST/raw",
}
NAMES = tuple(FOLDERS)
TIMM_SPLITS = {"train": "train", "test": "validation"}  # our split -> timm's name for it


def find_source(dataset: str, data_dir: str | None) -> ImageSource:
    """The data set `dataset` (torch/NAME), which `download` has put into `data_dir`, or by default the cache folder."""
    root = _download_folder(data_dir)
    key = {"dataset": dataset, "root": str(root.resolve()), "files": _stamp_files(root / FOLDERS.get(dataset, ""))}
    return ImageSource(dataset.removeprefix(PREFIX), key, lambda unpacked: _read(dataset, root, unpacked))


def _stamp_files(folder: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and modification time in ns of each file, by which a change is noticed."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in files:
        if not file.is_file() and not file.is_dir():
            raise UsageError(f"{file} is not a file, but a pipe or a device; remove it, and add --download")
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def download(dataset: str, data_dir: str | None) -> None:
    """Download `dataset` (torch/NAME) if it is not there yet. UsageError where that fails."""
    root = _download_folder(data_dir)
    for timm_split in TIMM_SPLITS.values():
        _open(dataset, root, timm_split, download=True)


def _download_folder(data_dir: str | None) -> Path:
    return Path(data_dir) if data_dir else cache_folder() / "downloads"


def _read(dataset: str, root: Path, unpacked: Path) -> EncodedDataset:
    """Write the images to the file `unpacked`. UsageError with the remedy where they are not downloaded."""
    writer, splits, classes = EncodedImageWriter(unpacked), {}, ()
    for split, timm_split in TIMM_SPLITS.items():
        images = _open(dataset, root, timm_split, download=False)
        classes = tuple(images.classes)
        splits[split] = writer.write_split(
            (f"image {number} of {dataset} {split}", int(label), _encode_bmp(image))
            for number, (image, label) in enumerate(images)
        )
    return EncodedDataset(splits, classes)


def _encode_bmp(image: Any) -> bytes:
    """Lossless, and the same bytes on every machine: fingerprints are made of them."""
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def _open(dataset: str, root: Path, timm_split: str, *, download: bool) -> Any:
    if dataset not in NAMES:
        raise unknown_name("data set", dataset, NAMES)
    from timm.data import create_dataset

    if download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        return create_dataset(dataset, root=str(root), split=timm_split, download=download)
    except (RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        if download:
            raise UsageError(f"cannot download {dataset} to {root}: {reason}; give a path to a local copy") from None
        raise UsageError(f"{dataset} is not in {root}: add --download to `maskbench run`, or give a path") from None
    except Exception as error:  # of torchvision's readers, whichever a damaged file happens to cause
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{dataset} in {root} is damaged ({reason}); remove it, and add --download") from None
