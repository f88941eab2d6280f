"""Data sets on disk: a folder of Parquet files (as Hugging Face datasets writes them) or of class folders of images."""

import re
from collections.abc import Iterator, Set
from pathlib import Path

from maskbench.data.encoded_images import Encoded, labelled
from maskbench.errors import UsageError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}


def listing(root: Path, suffixes: Set[str] = IMAGES | {".parquet"}) -> list[tuple[str, int, int]]:
    """What the data set's files look like from outside: (relative path, bytes, modification time), sorted. UsageError
    that names the link whose file is not there."""
    found = []
    for path in root.rglob("*"):
        if path.suffix.lower() in suffixes:
            try:
                about = path.stat()
            except OSError as error:
                why = f"{error.strerror}: {path.readlink()}" if path.is_symlink() else error.strerror
                raise UsageError(f"cannot read {path}: {why}; bring it back, or remove {path.name}") from None
            found.append((path.relative_to(root).as_posix(), about.st_size, about.st_mtime_ns))
    return sorted(found)


def read(root: Path, flat: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Splits by name and the class names; a validation split serves as test where there is no other.

    Images without classes are a training split alone, with no class name: Parquet files without labels, or a folder
    without class folders. flat: a file to which Parquet is unpacked. UsageError where the folder holds no data set that
    we know.
    """
    parquet = sorted(root.rglob("*.parquet"))
    splits, classes = _parquet(root, parquet, flat) if parquet else _folders(root)
    return complete(root, splits, classes, "train*.parquet, or folders train/<class>/<image>")


def _parquet(root: Path, found: list[Path], flat: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    parts = by_split(found)
    if not parts:
        return {}, ()
    from maskbench.data import parquet  # not in processes that only decode, to which pyarrow is 50 MiB of nothing

    return parquet.read(root, parts, flat)


def complete(
    root: Path, splits: dict[str, Encoded], classes: tuple[str, ...], expected: str
) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """The splits that have labels, with a test split; or, where train has none, train alone and no classes. UsageError
    where a split is missing, and as for `labelled`."""
    known = labelled(root, {split: images.labels < 0 for split, images in splits.items()})
    if "train" in splits and "train" not in known:
        return {"train": splits["train"].without_labels()}, ()
    splits = {split: splits[split] for split in known}
    if not classes and "train" in splits:
        return splits, classes
    if "train" not in splits:
        raise UsageError(
            f"no training split in {root}: expected {expected}; "
            f"found {', '.join(sorted(splits)) or 'nothing of the kind'}"
        )
    if "test" not in splits and "validation" in splits:  # ImageNet's custom: what is called val is the test set
        splits["test"] = splits.pop("validation")
    if "test" not in splits:
        raise UsageError(
            f"no test split in {root}: expected test*.parquet or test/<class>/<image> beside train, with labels"
        )
    return splits, classes


def split_of(name: str) -> str | None:
    """The split that a file or folder of this name belongs to."""
    return SPLITS.get(re.split(r"[^a-z]", name.lower())[0])


def by_split(files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that their names or their folders' names speak of; others are left out."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        split = split_of(file.name) or split_of(file.parent.name)
        if split is not None:
            parts.setdefault(split, []).append(file)
    return parts


def _folders(root: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    folders = {split: path for path in _subfolders(root) if (split := split_of(path.name))}
    classes = sorted({path.name for folder in folders.values() for path in _subfolders(folder)})
    if not classes and ("train" in folders or not folders):
        whole = folders.get("train", root)
        found = [file for file in sorted(whole.rglob("*")) if file.suffix.lower() in IMAGES]
        inner = [path for file in found for path in file.relative_to(whole).parents if split_of(path.name)]
        if inner or not found:
            why = f"{inner[0]} inside it is part of a data set" if inner else f"no images in {whole}"
            raise UsageError(f"no training split in {root}: {why}; give a folder with train/<class>/<image>, or images")
        names = [f"{file.relative_to(root)} in {root}" for file in found]
        return {"train": Encoded.whole_files(found, names, [0] * len(found))}, ()
    splits = {}
    for split, folder in folders.items():
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in sorted((folder / name).rglob("*"))
            if file.suffix.lower() in IMAGES
        ]
        if files:
            names = [f"{file.relative_to(root)} in {root}" for file, _ in files]
            splits[split] = Encoded.whole_files([file for file, _ in files], names, [label for _, label in files])
    return splits, tuple(classes)


def _subfolders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
