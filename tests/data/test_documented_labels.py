"""Columns of Parquet files, tar shards and the library datasets in docs/data.md: each row of the tables is a test."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers.documented_forms import IN_ORDER, Builder, Form, check_rows, documented_rows, form, write
from tests.helpers.image_files import open_hub, picture, png, write_hub, write_tar

COLUMNS: dict[str, Builder] = {}
SHARDS: dict[str, Builder] = {}
HUB: dict[str, Builder] = {}
STRUCT = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
BLOCK = 512  # bytes of a tar file
NAMES = ["cat", "dog", "emu"]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskbench.data.huggingface.open_splits", open_hub)


def write_table(path: Path, names: list[str] | None = None, **columns: Any) -> None:
    """Six pictures with labels 0, 1, 2, 0, 1, 2, unless `columns` say otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pyarrow.array([{"bytes": png(number), "path": None} for number in range(6)], STRUCT)
    table = pyarrow.table({"image": images, "label": IN_ORDER, **columns})
    if names is not None:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pyarrow.parquet.write_table(table, path)


def columns(name: str, *train: dict[str, Any], test: dict[str, Any] | None = None, found: Any = IN_ORDER) -> None:
    """A row of the table: Parquet files with each of these columns in train, and in test unless others are given."""

    def build(root: Path) -> Iterator[Form]:
        for number, of_train in enumerate(train):
            write_table(root / str(number) / "train.parquet", **of_train)
            write_table(root / str(number) / "test.parquet", **(of_train if test is None else test))
            yield Form(root / str(number), IN_ORDER, found, np.asarray(picture(2)))

    COLUMNS[name] = build


def paths_only() -> pyarrow.Array:
    return pyarrow.array([{"bytes": None, "path": "a.png"}] * 6, STRUCT)


columns("images as bytes, or as `bytes` and `path`", {}, {"image": pyarrow.array([png(n) for n in range(6)])})
columns("labels: whole numbers, also as floats", {}, {"label": [0.0, 1.0, 2.0] * 2}, {"label": [3, 7, 9] * 2})
columns("labels: text", {"label": NAMES * 2}, {"label": pyarrow.array(NAMES * 2).dictionary_encode()})
columns("labels: `ClassLabel`", {"names": NAMES})
columns("labels: `ClassLabel` in another order in `test`: by name", {"names": NAMES},
        test={"names": ["emu", "cat", "dog"]}, found=[2, 0, 1] * 2)  # fmt: skip
columns("images as paths", {"image": ["a.png"] * 6})
columns("images as nested lists", {"image": [[[1, 2], [3, 4]]] * 6})
columns("null bytes with a path", {"image": paths_only()})
columns(
    "an image that is missing",
    {"image": pyarrow.array([None] * 6, STRUCT)},
    {"image": pyarrow.array([None] * 6, pyarrow.binary())},
)
columns("columns `image` and `img`", {"img": [png(0)] * 6})
columns("columns `label` and `labels`", {"labels": IN_ORDER})
columns("labels: lists", {"label": [[0], [1], [2]] * 2})
columns("labels: text here, numbers there", {"label": NAMES * 2}, test={})
columns("labels: names here, numbers there", {"names": NAMES}, test={})
columns("labels: fractions", {"label": [0.0, 1.5, 2.0] * 2})
columns("labels: some missing", {"label": [0, 1, None] * 2}, {"label": ["cat", None, "dog"] * 2})
columns("labels: some negative", {"label": [0, 1, -1] * 2})
columns("labels: a class that `train` does not name", {"names": NAMES}, test={"names": ["cat", "dog", "fox"]})


@form(COLUMNS, "labels: true and false")
def _boolean(root: Path) -> Iterator[Form]:
    for split in ("train", "test"):
        write_table(root / f"{split}.parquet", label=[False, True] * 3)
    yield Form(root, [0, 1] * 3, [0, 1] * 3)


@form(COLUMNS, "damaged names of classes in the metadata")
def _damaged_names(root: Path) -> Iterator[Form]:
    feature = '{"info": {"features": {"label": {"names": %s}}}}'
    for number, text in enumerate((feature[:9], feature % "[1, 2]", feature % '"cat"', "[1]", "[" * 100_000)):
        for split in ("train", "test"):
            path = root / str(number) / f"{split}.parquet"
            write_table(path)
            table = pyarrow.parquet.read_table(path).replace_schema_metadata({"huggingface": text})
            pyarrow.parquet.write_table(table, path)
        yield Form(root / str(number))


@form(COLUMNS, "labels of `test` all negative: `val` is the test set")
def _withheld(root: Path) -> Iterator[Form]:
    write_table(root / "train.parquet")
    write_table(root / "val.parquet")
    write_table(root / "test.parquet", label=[-1] * 6)
    yield Form(root, IN_ORDER, IN_ORDER)


@form(COLUMNS, "labels in `train` only")
def _train_only(root: Path) -> Iterator[Form]:
    write_table(root / "train.parquet")
    write_table(root / "test.parquet")
    table = pyarrow.parquet.read_table(root / "test.parquet").drop_columns(["label"])
    pyarrow.parquet.write_table(table, root / "test.parquet")
    yield Form(root)


def label(number: int) -> bytes:
    return str(number % 3).encode()


def samples(**fields: Any) -> list[tuple[str, bytes]]:
    """Members of six samples; `__` in a field's name stands for a dot."""
    return [(f"{n}.{name.replace('__', '.')}", make(n)) for n in range(6) for name, make in fields.items()]


def mask(number: int) -> bytes:
    return png(100 + number)


def as_json(number: int) -> bytes:
    return json.dumps({"label": number % 3}).encode()


def write_shards(root: Path, members: list[tuple[str, bytes]]) -> str:
    for split in ("train", "test"):
        write_tar(root / f"{split}.tar", members)
    return f"wds/{root}"


def shards(name: str, *members: list[tuple[str, bytes]], labels: list[int] | None = IN_ORDER) -> None:
    """A row of the table: the same shard as train and as test."""

    def build(root: Path) -> Iterator[Form]:
        for number, of_shard in enumerate(members):
            yield Form(write_shards(root / str(number), of_shard), labels, labels, np.asarray(picture(2)))

    SHARDS[name] = build


PLAIN = samples(png=png, cls=label)
shards("`0.png` and `0.cls`", PLAIN)
shards("`0.png` and `0.json` with `label`", samples(png=png, json=as_json))
shards("`0.png` beside `0.seg.png`: the exact field", samples(png=png, seg__png=mask, cls=label),
       samples(seg__png=mask, png=png, cls=label))  # fmt: skip
shards("`0.cls` beside `0.coarse.cls`: the exact field", samples(png=png, cls=label, coarse__cls=lambda _: b"0"))
shards("`0.rgb.png` alone", samples(rgb__png=png, cls=label))
shards("hidden members (`._0.png`, `__MACOSX/`)", [("._0.png", b"Mac"), *PLAIN], [("__MACOSX/0.png", b"Mac"), *PLAIN])
shards("no labels at all", samples(png=png), labels=None)
shards("a sample without an image", [*PLAIN, ("9.txt", b"a thing")])
shards("`0.png` and `0.jpg`", samples(png=png, jpg=png, cls=label))
shards("keys with dots: `img.0.png`, `img.1.png`", [(f"img.{n}.png", png(n)) for n in range(6)])
shards("`0.png`, but `1.seg.png`", [("0.png", png(0)), ("0.cls", b"0"), ("1.seg.png", mask(1)), ("1.cls", b"1")])
shards("`0.a.cls` and `0.b.cls`", samples(png=png, a__cls=label, b__cls=label))
shards("`0.cls` and another number in `0.json`", samples(png=png, cls=lambda _: b"7", json=as_json))
shards("`0.avif` alone", samples(avif=png, cls=label))
shards("unsorted members", samples(png=png) + samples(cls=label))
shards("a member twice", [("0.png", png(0)), ("0.png", png(0))])
shards("a label above 999,999", samples(png=png, cls=lambda n: b"999999999999" if n == 3 else label(n)),
       samples(png=png, json=lambda _: b'{"label": ' + b"9" * 999 + b"}"))  # fmt: skip
shards("a label of more than 1 MiB", samples(png=png, json=lambda _: b"[" * (2**20 + 1)))
shards("a label that is text, a list or a fraction",
       *(samples(png=png, cls=lambda _, content=content: content) for content in (b"cat", b"[1]", b"1.5", b"[" * 9999)),
       samples(png=png, json=lambda _: b'{"label": [1]}'))  # fmt: skip


@form(SHARDS, "`classnames.txt` with a byte-order mark, or blank lines at its end")
def _class_names(root: Path) -> Iterator[Form]:
    for number, text in enumerate(("\ufeffcat\ndog\nemu", "cat\ndog\nemu\n\n")):
        write(root / str(number) / "classnames.txt", text.encode())
        yield Form(write_shards(root / str(number), PLAIN), IN_ORDER)


@form(SHARDS, "`classnames.txt` with a blank line between")
def _blank_line(root: Path) -> Iterator[Form]:
    write(root / "classnames.txt", b"cat\n\ndog\nemu")
    yield Form(write_shards(root, PLAIN))


@form(SHARDS, "`classnames.txt` that is too short")
def _short(root: Path) -> Iterator[Form]:
    write(root / "classnames.txt", b"cat")
    yield Form(write_shards(root, PLAIN))


@form(SHARDS, "shards of no split")
def _no_split(root: Path) -> Iterator[Form]:
    write_tar(root / "0000.tar", PLAIN)
    yield Form(write_shards(root, PLAIN), IN_ORDER)


@form(SHARDS, "compressed shards")
def _compressed(root: Path) -> Iterator[Form]:
    write(root / "train-1.tar.gz", b"")
    yield Form(write_shards(root, PLAIN), IN_ORDER)


@form(SHARDS, "cut off, also between two members, or without the two blocks of zeros at the end")
def _cut_off(root: Path) -> Iterator[Form]:
    for number, blocks in enumerate((-4, -2, 0, 1)):
        dataset, shard = write_shards(root / str(number), PLAIN), root / str(number) / "train.tar"
        with tarfile.open(shard) as tar:
            end = tar.getmembers()[-1].offset_data + BLOCK  # the last label is in one block
        os.truncate(shard, end + blocks * BLOCK)
        yield Form(dataset)


@form(SHARDS, "damaged headers")
def _damaged_headers(root: Path) -> Iterator[Form]:
    for number, header in enumerate((b"3.png\0", b"ustar")):
        dataset, shard = write_shards(root / str(number), PLAIN), root / str(number) / "train.tar"
        content = shard.read_bytes()
        position = content.rindex(header)
        shard.write_bytes(content[:position] + b"\xff" * 9 + content[position + 9 :])
        yield Form(dataset)
    dataset, shard = write_shards(root / "within", PLAIN), root / "within" / "train.tar"
    os.truncate(shard, shard.read_bytes().index(b"4.cls") + 700)
    yield Form(dataset)


@form(SHARDS, "a member with its gaps left out (`tar --sparse`)")
def _sparse(root: Path) -> Iterator[Form]:
    dataset = write_shards(root, PLAIN)
    with tarfile.open(root / "train.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("0.png")
        member.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(member)
    yield Form(dataset)


@form(SHARDS, "joined with `cat`")
def _joined(root: Path) -> Iterator[Form]:
    dataset = write_shards(root, PLAIN)
    (root / "train.tar").write_bytes((root / "train.tar").read_bytes() * 2)
    yield Form(dataset)


@form(SHARDS, "`train-test-0000.tar`")
def _two_splits(root: Path) -> Iterator[Form]:
    write_tar(root / "train-test-0000.tar", PLAIN)
    yield Form(f"wds/{root}")


@form(HUB, "labels: `ClassLabel`")
def _class_label(root: Path) -> Iterator[Form]:
    yield Form(write_hub(root / "hub", {"train": IN_ORDER, "test": IN_ORDER}), IN_ORDER, IN_ORDER)


@form(HUB, "labels: `ClassLabel` in another order in `test`: by name")
def _other_order(root: Path) -> Iterator[Form]:
    names = {"train": NAMES, "test": ["emu", "cat", "dog"]}
    yield Form(write_hub(root / "hub", {"train": IN_ORDER, "test": IN_ORDER}, names), IN_ORDER, [2, 0, 1] * 2)


@form(HUB, "images that are only named by a path")
def _named(root: Path) -> Iterator[Form]:
    dataset = write_hub(root / "hub", {"train": IN_ORDER, "test": IN_ORDER})
    for number in range(6):
        write(root / f"{number}.png", png(number))
    for split in ("train", "test"):
        images = pyarrow.array([{"bytes": None, "path": str(root / f"{n}.png")} for n in range(6)], STRUCT)
        table = pyarrow.table({"image": images, "label": IN_ORDER})
        with pyarrow.ipc.new_stream(root / "hub" / f"{split}.arrow", table.schema) as file:
            file.write_table(table)
    yield Form(dataset, IN_ORDER, IN_ORDER, np.asarray(picture(2)))


@form(HUB, "labels: text")
def _text(root: Path) -> Iterator[Form]:
    yield Form(write_hub(root / "hub", {"train": NAMES * 2, "test": NAMES * 2}))


@form(HUB, "labels: lists")
def _lists(root: Path) -> Iterator[Form]:
    yield Form(write_hub(root / "hub", {"train": [[0], [1]], "test": [[0], [1]]}))


@form(HUB, "a split without rows")
def _no_rows(root: Path) -> Iterator[Form]:
    yield Form(write_hub(root / "hub", {"train": IN_ORDER, "test": pyarrow.array([], pyarrow.int64())}))


@form(HUB, "damaged Arrow files")
def _damaged_arrow(root: Path) -> Iterator[Form]:
    for number, cut in enumerate((0, 100, 400)):
        dataset = write_hub(root / str(number), {"train": IN_ORDER, "test": IN_ORDER})
        os.truncate(root / str(number) / "train.arrow", cut)
        yield Form(dataset)


@form(HUB, "files of a folder that order their classes differently")
def _other_order_in_files(root: Path) -> Iterator[Form]:
    write_table(root / "train.parquet", NAMES)
    write_table(root / "test.parquet", ["emu", "cat", "dog"])
    yield Form(f"hfds/{root}")


TABLES = {"Columns of Parquet files": COLUMNS, "Tar shards": SHARDS, "Hugging Face `datasets`": HUB}


@pytest.mark.parametrize(("section", "name"), [(section, name) for section, table in TABLES.items() for name in table])
def test_each_row_of_the_tables(section: str, name: str, tmp_path: Path) -> None:
    check_rows(section, TABLES[section], name, tmp_path)


@pytest.mark.parametrize("section", TABLES)
def test_no_row_is_without_a_test(section: str) -> None:
    assert documented_rows(section).keys() == TABLES[section].keys()
