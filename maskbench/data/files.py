"""Data sets on disk: a folder of Parquet files (as Hugging Face datasets writes them) or of class folders of images."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

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
PICTURES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True)
class Encoded:
    """One split on disk: per image a name for messages, its label, and its file or bytes."""

    names: list[str]
    labels: list[int]
    contents: list[bytes | Path]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int) -> bytes:
        """The encoded image."""
        content = self.contents[number]
        return content.read_bytes() if isinstance(content, Path) else content

    def open(self, encoded: bytes, number: int) -> Image.Image:
        """Decode lazily; UsageError that names the file where it is no image."""
        try:
            return Image.open(io.BytesIO(encoded))
        except OSError as error:
            raise self.broken(number, error) from None

    def broken(self, number: int, error: Exception) -> UsageError:
        """The error for an image that cannot be decoded."""
        return UsageError(f"cannot decode {self.names[number]}: {error}; repair or remove it")


def listing(root: Path) -> list[tuple[str, int, int]]:
    """What the data set's files look like from outside: (relative path, bytes, modification time), sorted."""
    found = []
    for path in root.rglob("*"):
        if path.suffix.lower() in IMAGES | {".parquet"}:
            about = path.stat()
            found.append((path.relative_to(root).as_posix(), about.st_size, about.st_mtime_ns))
    return sorted(found)


def read(root: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Splits by name and the class names; a validation split serves as test where there is no other.

    Images without classes are a training split alone, with no class name: Parquet files without labels, or a folder
    without class folders. UsageError where the folder holds no data set that we know.
    """
    parquet = sorted(root.rglob("*.parquet"))
    splits, classes = _parquet(root, parquet) if parquet else _folders(root)
    if not classes and "train" in splits:
        return splits, classes
    if "train" not in splits:
        raise UsageError(
            f"no training split in {root}: expected train*.parquet, or folders train/<class>/<image>; "
            f"found {', '.join(sorted(splits)) or 'nothing of the kind'}"
        )
    if "test" not in splits and "validation" in splits:  # ImageNet's custom: what is called val is the test set
        splits["test"] = splits.pop("validation")
    if "test" not in splits:
        raise UsageError(f"no test split in {root}: expected test*.parquet or test/<class>/<image> beside train")
    return splits, classes


def _split_of(name: str) -> str | None:
    return SPLITS.get(re.split(r"[^a-z]", name.lower())[0])


def _parquet(root: Path, files: list[Path]) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    rows: dict[str, list[tuple[str, int | str, bytes]]] = {}
    names: list[str] | None = None
    tables = {file: _table(file) for file in files if _split_of(file.name) or _split_of(file.parent.name)}
    if tables and not any(set(LABELS) & set(table.column_names) for table in tables.values()):
        return _without_labels(root, tables)
    for file, table in tables.items():
        split = _split_of(file.name) or _split_of(file.parent.name)
        assert split is not None, "among those that are of a split"
        image, label = _column(file, table, PICTURES), _column(file, table, LABELS)
        names = names or _class_names(table.schema, label)
        for number, (encoded, value) in enumerate(zip(_contents(table, image), table[label].to_pylist(), strict=True)):
            where = f"row {number} of {file.relative_to(root)}"
            if encoded is None or value is None:
                raise UsageError(f"{where} in {root} has no {'image' if encoded is None else 'label'}; remove it")
            rows.setdefault(split, []).append((where, value, encoded))
    if names is None:
        values = sorted({row[1] for part in rows.values() for row in part})
        number_of = {value: number for number, value in enumerate(values)}
        names = [str(value) for value in values]
    else:
        number_of = {number: number for number in range(len(names))}
    splits = {}
    for split, part in rows.items():
        splits[split] = Encoded(
            [where for where, _, _ in part],
            [number_of[label] for _, label, _ in part],
            [content for _, _, content in part],
        )
    return splits, tuple(names)


def _table(file: Path) -> pyarrow.Table:
    try:
        return pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"cannot read {file}: {reason}; download or write it again") from None


def _contents(table: pyarrow.Table, column: str) -> Iterator[bytes | None]:
    return (content["bytes"] if isinstance(content, dict) else content for content in table[column].to_pylist())


def _without_labels(root: Path, tables: dict[Path, pyarrow.Table]) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Every image of the training files."""
    names, contents = [], []
    for file, table in tables.items():
        if "train" not in (_split_of(file.name), _split_of(file.parent.name)):
            continue
        for number, encoded in enumerate(_contents(table, _column(file, table, PICTURES))):
            names.append(f"row {number} of {file.relative_to(root)} in {root}")
            if encoded is None:
                raise UsageError(f"{names[-1]} has no image; remove it")
            contents.append(encoded)
    if not names:
        raise UsageError(f"no training split in {root}: expected train*.parquet")
    return {"train": Encoded(names, [0] * len(names), list(contents))}, ()


def _column(file: Path, table: pyarrow.Table, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise UsageError(f"{file} has no column {names[0]!r}; its columns are {', '.join(table.column_names)}")


def _class_names(schema: pyarrow.Schema, label: str) -> list[str] | None:
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = about.get("info", {}).get("features", {}).get(label, {}).get("names")
    return list(names) if names else None


def _folders(root: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    folders = {split: path for path in _subfolders(root) if (split := _split_of(path.name))}
    classes = sorted({path.name for folder in folders.values() for path in _subfolders(folder)})
    if not classes and ("train" in folders or not folders):
        whole = folders.get("train", root)
        found = [file for file in sorted(whole.rglob("*")) if file.suffix.lower() in IMAGES]
        inner = [path for file in found for path in file.relative_to(whole).parents if _split_of(path.name)]
        if inner or not found:
            why = f"{inner[0]} inside it is part of a data set" if inner else f"no images in {whole}"
            raise UsageError(f"no training split in {root}: {why}; give a folder with train/<class>/<image>, or images")
        names = [f"{file.relative_to(root)} in {root}" for file in found]
        return {"train": Encoded(names, [0] * len(found), [*found])}, ()
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
            splits[split] = Encoded(names, [label for _, label in files], [file for file, _ in files])
    return splits, tuple(classes)


def _subfolders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
