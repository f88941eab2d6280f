"""Data sets on disk: a folder of Parquet files (as Hugging Face datasets writes them) or of class folders of images."""

from collections.abc import Iterator
from pathlib import Path

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_source import (
    IMAGE_SUFFIXES,
    EncodedDataset,
    ImageSource,
    find_split,
    list_files,
    select_splits,
)
from maskbench.errors import UsageError

EXPECTED = "train*.parquet, or folders train/<class>/<image>"


def find_source(root: Path, label_column: str | None = None) -> ImageSource:
    """The folder `root`, whose Parquet files have their labels in `label_column`, if that is given.

    UsageError where there is no folder, or nothing in it that could be a data set.
    """
    if not root.is_dir():
        raise UsageError(f"no folder {root}: give a path that holds Parquet files or class folders of images")
    files = list_files(root, IMAGE_SUFFIXES | {".parquet"})
    if not files:
        raise UsageError(f"no Parquet files or images in {root}")
    key = {"root": str(root.resolve()), "files": files, "label_column": label_column}
    return ImageSource(root.resolve().name, key, lambda unpacked: read_folder(root, unpacked, label_column))


def read_folder(root: Path, unpacked: Path, label_column: str | None) -> EncodedDataset:
    """Find the images of a folder.

    Images without classes are a training split alone, with no class name: Parquet files without labels, or a folder
    without class folders.

    Args:
        root: The folder.
        unpacked: A file to which the images of Parquet files are written.
        label_column: The column of labels in Parquet files. Default: the one with a usual name.

    Raises:
        UsageError: The folder holds no data set of a known form.
    """
    files = sorted(root.rglob("*.parquet"))
    dataset = _read_parquet(root, files, unpacked, label_column) if files else _read_class_folders(root)
    return select_splits(root, dataset, EXPECTED)


def _read_parquet(root: Path, files: list[Path], unpacked: Path, label_column: str | None) -> EncodedDataset:
    files_by_split = _group_by_split(root, files)
    if not files_by_split:
        return EncodedDataset({}, ())
    from maskbench.data import parquet  # imports pyarrow: 50 MiB that processes which only decode do without

    return parquet.read_parquet(root, files_by_split, unpacked, label_column)


def _group_by_split(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that their name or a folder's name begins with; files of no split are left out.

    UsageError where files of one split lie in several folders: they may be several versions of the same images.
    """
    groups: dict[str, list[Path]] = {}
    for file in files:
        split = find_split(file.relative_to(root))
        if split is not None:
            groups.setdefault(split, []).append(file)
    for split, members in groups.items():
        _ensure_one(split, root, sorted({file.parent for file in members}))
    return groups


def _ensure_one(split: str, root: Path, folders: list[Path]) -> None:
    """UsageError where several folders are the same split: nothing says which is meant."""
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in folders[:4])
        raise UsageError(
            f"several folders of {root} are the split {split}: {names}; move all but one away, or give the folder that "
            f"holds the one that you mean"
        )


def _read_class_folders(root: Path) -> EncodedDataset:
    found: dict[str, list[Path]] = {}
    for path in _subfolders(root):
        if (split := find_split(Path(path.name))) is not None:
            found.setdefault(split, []).append(path)
    for split, paths in found.items():
        _ensure_one(split, root, paths)
    folders = {split: path for split, (path,) in found.items()}
    classes = sorted({path.name for folder in folders.values() for path in _subfolders(folder)})
    if not classes and ("train" in folders or not folders):
        return _read_unlabelled(root, folders.get("train", root))
    splits = {}
    for split, folder in folders.items():
        files_by_label = [_image_files(folder / name) for name in classes]
        labels = [label for label, files in enumerate(files_by_label) for _ in files]
        if labels or not _image_files(folder):
            splits[split] = _as_encoded(root, [file for files in files_by_label for file in files], labels)
    return EncodedDataset(splits, tuple(classes))


def _read_unlabelled(root: Path, folder: Path) -> EncodedDataset:
    files = _image_files(folder)
    inner = [path for file in files for path in file.relative_to(folder).parents if find_split(Path(path.name))]
    if inner or not files:
        why = f"{inner[0]} inside it is part of a data set" if inner else f"no images in {folder}"
        raise UsageError(f"no training split in {root}: {why}; give a folder with train/<class>/<image>, or images")
    return EncodedDataset({"train": _as_encoded(root, files, [0] * len(files))}, ())


def _as_encoded(root: Path, files: list[Path], labels: list[int]) -> EncodedImages:
    return EncodedImages.from_files(files, [f"{file.relative_to(root)} in {root}" for file in files], labels)


def _image_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES]


def _subfolders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
