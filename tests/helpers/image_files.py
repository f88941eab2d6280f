"""Small data sets of noise, written to disk as users' data sets are."""

import io
import json
from pathlib import Path

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


def write_parquet(path: Path, first: int, count: int, names: bool = True, image: str = "image") -> None:
    """Pictures `first` to `first + count` as Hugging Face writes them, with or without the classes' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(n), "path": f"{n}.png"} for n in range(first, first + count)]
    table = pyarrow.table({image: rows, "label": [n % 3 for n in range(first, first + count)]})
    if names:
        about = {"info": {"features": {"label": {"names": CLASSES, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pyarrow.parquet.write_table(table, path)


def write_folders(root: Path, split: str, first: int, count: int, rows: int = 12, cols: int = 12) -> None:
    """Pictures `first` to `first + count` as `root/split/class/number.png`."""
    for number in range(first, first + count):
        path = root / split / CLASSES[number % 3] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, rows, cols))
