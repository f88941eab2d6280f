"""Small data sets of noise, written to disk as users' data sets are."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

CLASSES = ["cat", "dog", "emu"]


def picture(number: int, rows: int = 12, cols: int = 12) -> Image.Image:
    """Noise, the same for the same `number`."""
    values = np.random.default_rng(number).integers(0, 256, (rows, cols, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png(number: int, rows: int = 12, cols: int = 12) -> bytes:
    """`picture` as a PNG file."""
    buffer = io.BytesIO()
    picture(number, rows, cols).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    path: Path, first: int, count: int, names: bool = True, image: str = "image", label: str = "label"
) -> None:
    """Pictures `first` to `first + count` as Hugging Face writes them, with or without the classes' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(n), "path": f"{n}.png"} for n in range(first, first + count)]
    table = pyarrow.table({image: rows, label: [n % 3 for n in range(first, first + count)]})
    if names:
        about = {"info": {"features": {label: {"names": CLASSES, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pyarrow.parquet.write_table(table, path)


def write_folders(root: Path, split: str, first: int, count: int, rows: int = 12, cols: int = 12) -> None:
    """Pictures `first` to `first + count` as `root/split/class/number.png`."""
    for number in range(first, first + count):
        path = root / split / CLASSES[number % 3] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, rows, cols))


def write_hub(
    root: Path, labels: Mapping[str, Sequence[Any]], names: Mapping[str, Sequence[str] | None] | None = None
) -> str:
    """Pictures with these labels by split, as the library `datasets`, which may not be here, keeps them.

    names: The classes by split. Default: CLASSES for all.
    """
    root.mkdir(exist_ok=True)
    for split, of_split in labels.items():
        rows = [{"bytes": png(number), "path": None} for number in range(len(of_split))]
        images = pyarrow.array(rows, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
        table = pyarrow.table({"image": images, "label": of_split})
        with pyarrow.ipc.new_stream(root / f"{split}.arrow", table.schema) as file:
            file.write_table(table)
    (root / "names.json").write_text(json.dumps(names or dict.fromkeys(labels, CLASSES)))
    return f"hfds/{root}"


def open_hub(name: str, _: str | None) -> dict[str, Any]:
    """What the library would open of what `write_hub` wrote."""
    names = json.loads((Path(name) / "names.json").read_text())
    return {
        file.stem: SimpleNamespace(
            cache_files=[{"filename": str(file)}], features={"label": SimpleNamespace(names=names[file.stem])}
        )
        for file in Path(name).glob("*.arrow")
    }


def write_tar(path: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> None:
    """A tar file of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
