"""What a run works on: images, caches, checkpoints, encoders."""

import json
import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from maskbench.data.load import load_dataset
from tests.fuzz.inputs import HOSTILE_MODEL, QUICK, SPECIAL_FILES, Input, a_run, write
from tests.fuzz.mutations import spoil_bytes
from tests.helpers.image_files import png, write_parquet, write_tar


def data(_: Path) -> Iterator[Input]:
    """Image files, Parquet and tar shards for --dataset."""
    command = ("run", "--dataset", "./photos", "--output", "new", *QUICK)
    image = png(3)
    contents = [*spoil_bytes(image), ("a bomb of 60,000 x 60,000 pixels", _huge_png())]
    contents += [(f"{kind} called png", start) for kind, start in {
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "FITS": b"SIMPLE  =                    T" + bytes(3000), "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }.items()]  # fmt: skip
    for name, content in contents:
        yield Input(f"image {name}", partial(write, "photos/train/cat/0000.png", content), command)
    for name, special in SPECIAL_FILES.items():
        yield Input(f"image {name}", partial(special, "photos/train/cat/0000.png"), command)
    for name in ("$x^{$.png", "=cmd().png", "a\nb.png", "\x1b[31m.png", "|.png", "<b>.png", "x" * 200 + ".png"):
        yield Input(f"file {name!r}", partial(write, f"photos/train/cat/{name}", image), command)
    for name in ("$x^{$", "=cmd()", "a\nb", "\x1b[31m", "|", "<script>", "\\input{x}"):
        yield Input(f"class {name!r}", partial(_add_class, name), command)
    yield from _other_files()


def _add_class(name: str, folder: Path) -> None:
    for split in ("train", "test"):
        for number in range(6):
            write(f"photos/{split}/{name}/{number}.png", png(number), folder)


def _other_files() -> Iterator[Input]:
    buffer = Path(os.environ["MASKBENCH_CACHE"]).parent / "sound"
    write_parquet(buffer / "t" / "train.parquet", 0, 60)
    write_parquet(buffer / "t" / "test.parquet", 60, 30)
    test = (buffer / "t" / "test.parquet").read_bytes()
    for name, content in spoil_bytes((buffer / "t" / "train.parquet").read_bytes()):
        yield Input(f"Parquet {name}", partial(_pair, "table", "parquet", content, test),
                    ("run", "--dataset", "./table", "--output", "new", *QUICK))  # fmt: skip
    for split, first, count in (("train", 0, 60), ("test", 60, 30)):
        members = {f"{number:04}.{kind}": content for number in range(first, first + count)
                   for kind, content in (("png", png(number)), ("cls", str(number % 3).encode()))}  # fmt: skip
        write_tar(buffer / f"{split}-0000.tar", members)
    test = (buffer / "test-0000.tar").read_bytes()
    for name, content in spoil_bytes((buffer / "train-0000.tar").read_bytes()):
        yield Input(f"tar {name}", partial(_pair, "shards", "tar", content, test),
                    ("run", "--dataset", "wds/./shards", "--output", "new", *QUICK))  # fmt: skip


def _pair(where: str, kind: str, train: bytes, test: bytes, folder: Path) -> None:
    number = "-0000" if kind == "tar" else ""
    write(f"{where}/train{number}.{kind}", train, folder)
    write(f"{where}/test{number}.{kind}", test, folder)


def _huge_png() -> bytes:
    """The header of a PNG file that says 60,000 x 60,000."""
    image = bytearray(png(0))
    image[16:24] = struct.pack(">II", 60_000, 60_000)
    return bytes(image)


def cache(sound: Path) -> Iterator[Input]:
    """The packed data set in the cache folder: spoilt, it is packed again, or refused in one line."""
    packed = sorted((Path(os.environ["MASKBENCH_CACHE"]) / "datasets").glob("*.safetensors"))[0]
    whole = packed.read_bytes()
    command = ("run", "--dataset", "./photos", "--output", "new", *QUICK)
    for name, content in spoil_bytes(whole):
        yield Input(name, partial(_spoil_cache, packed.name, content), command, (0,))


def _spoil_cache(name: str, content: bytes, _: Path) -> None:
    path = Path(os.environ["MASKBENCH_CACHE"]) / "datasets" / name
    path.unlink(missing_ok=True)  # this process may have mapped it
    path.write_bytes(content)
    load_dataset.cache_clear()


def checkpoints(sound: Path) -> Iterator[Input]:
    """checkpoint.pt of an interrupted run: spoilt, the run begins anew."""
    whole = (sound / "checkpoint.pt").read_bytes()
    run = f"again/runs/{(sound / 'run_id').read_text()}"
    command = ("run", "--dataset", "./photos", "--strategy", "random", "--output", "again", *QUICK)
    for name, content in spoil_bytes(whole):
        yield Input(name, partial(write, f"{run}/checkpoint.pt", content), command, (0, 2))


def encoders(sound: Path) -> Iterator[Input]:
    """A safetensors file for `probe`."""
    whole = (a_run(sound) / "encoder.safetensors").read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    command = ("probe", "encoder.safetensors", "--dataset", "./photos", "--probes", "knn", "--output", "probed",
               "--device", "cpu")  # fmt: skip
    contents = list(spoil_bytes(whole))
    about = header.get("__metadata__", {})

    def with_header(metadata: dict[str, str]) -> bytes:
        text = json.dumps({**header, "__metadata__": metadata}).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + size :]

    for key in about:
        for name, value in (
            ("missing", None),
            ("garbage", "\x1b[31m{"),
            ("code", "__import__('os').system('touch stolen')"),
        ):
            changed = {inner: own for inner, own in about.items() if inner != key} | ({key: value} if value else {})
            contents.append((f"header {key} {name}", with_header(changed)))
    for key, value in HOSTILE_MODEL.items():
        changed = {name: _with_argument(text, key, value) for name, text in about.items()}
        contents.append((f"model {key}", with_header(changed)))
    tensors = safetensors.numpy.load(whole)
    for name, arrays in {
        "NaN": {key: value * np.nan for key, value in tensors.items()},
        "one is missing": dict(list(tensors.items())[1:]),
        "other shapes": {key: value.reshape(-1) for key, value in tensors.items()},
        "integers": {key: value.astype(np.int32) for key, value in tensors.items()},
        "an extra block": {**tensors, "blocks.99999999.attn.qkv.weight": np.zeros((96, 32), np.float32)},
        "nothing": {},
    }.items():
        contents.append((name, safetensors.numpy.save(arrays, metadata=about)))
    contents.append(("a header of 2**62 bytes", struct.pack("<Q", 1 << 62) + whole[8:]))
    for name, content in contents:
        yield Input(name, partial(write, "encoder.safetensors", content), command)


def _with_argument(text: str, key: str, value: Any) -> str:
    """The argument put into every mapping of the header's JSON."""
    try:
        document = json.loads(text)
    except ValueError:
        return text

    def put(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {**{name: put(own) for name, own in inner.items()}, key: value}
        return inner

    return json.dumps(put(document))
