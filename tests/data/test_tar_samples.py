"""Tar shards: which member is the image and which the label of a sample, and the cause where that is unclear."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskbench import data
from maskbench.errors import UsageError
from tests.helpers.image_files import CLASSES, picture, png, write_tar


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def members_of(fields: dict[str, Any], count: int = 6) -> list[tuple[str, bytes]]:
    """Samples whose fields are functions of their number."""
    return [(f"{n:04}.{name}", content(n)) for n in range(count) for name, content in fields.items()]


def label(number: int) -> bytes:
    return str(number % 3).encode()


PLAIN = {"png": png, "cls": label}


def load(root: Path, members: list[tuple[str, bytes]], test: list[tuple[str, bytes]] | None = None) -> Any:
    write_tar(root / "train.tar", members)
    write_tar(root / "test.tar", test or members_of(PLAIN))
    return data.load_dataset(f"wds/{root}", (12, 12), 3)


def mask(number: int) -> bytes:
    return png(100 + number)


@pytest.mark.parametrize(
    "fields",
    [
        {"png": png, "seg.png": mask, "cls": label},
        {"seg.png": mask, "png": png, "cls": label},
        {"png": png, "cls": label, "coarse.cls": lambda _: b"0"},
        {"coarse.cls": lambda _: b"0", "cls": label, "png": png},
        {"PNG": png, "Cls": label},
        {"png": png, "json": lambda n: json.dumps({"label": n % 3}).encode()},
        {"png": png, "json": lambda n: json.dumps({"label": n % 3}).encode(), "cls": label},
        {"png": png, "json": lambda _: b'{"width": 12}', "cls": label},
        {"rgb.png": png, "coarse.cls": label},
        {"png": png, "cls": lambda n: label(n) + b"\n"},
    ],
    ids=["mask after", "mask before", "coarse after", "coarse before", "capitals", "json", "both", "json without",
         "only dotted", "line break"],
)  # fmt: skip
def test_the_exact_field_is_read(fields: dict[str, Any], tmp_path: Path) -> None:
    splits = load(tmp_path, members_of(fields), members_of(fields))
    assert splits.train.labels.tolist() == [0, 1, 2] * 2
    assert (splits.train.pixels[4].permute(1, 2, 0).numpy() == np.asarray(picture(4))).all()


DOTTED = [(f"img.{n}.{field}", content(n)) for n in range(6) for field, content in PLAIN.items()]
UNSORTED = [(f"{n}.png", png(n)) for n in range(6)] + [(f"{n}.cls", label(n)) for n in range(6)]
MIXED = [*members_of(PLAIN), ("0009.seg.png", mask(9)), ("0009.cls", b"0")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (DOTTED, r"^the sample img of .*train.tar has several images: img.0.png, img.1.png, img.2.png; a sample's"),
        (members_of({"png": png, "jpg": png, "cls": label}), "sample 0000 of .* has several images: 0000.png, 0000.jp"),
        (members_of({"a.png": png, "b.png": png}), "sample 0000 of .* has several images: 0000.a.png, 0000.b.png"),
        (MIXED, "images have different fields: 0000.png and 0009.seg.png .of .*train.tar.; rename those that are mean"),
        (members_of({"png": png, "a.cls": label, "b.cls": label}), "several labels: 0000.a.cls .0., 0000.b.cls .0.; k"),
        (
            members_of({"png": png, "cls": label, "json": lambda _: b'{"label": 7}'}),
            "the sample 0000 of .* has several labels: 0000.cls .0., 0000.json .7.; keep one, in 0000.cls",
        ),
        (UNSORTED, "members of the sample 0 of .*train.tar do not follow each other; write it sorted by name, e.g. wi"),
        ([("0.png", png(0)), ("0.png", png(1))], "train.tar has two members 0.png; remove one"),
        (members_of({"avif": png, "cls": label}), "0000.avif of .*train.tar is of a format that is not read; convert "),
        (members_of({"png": png, "json": lambda _: b'{"label": [1, 2]}'}), r"0000.json of .* has the label '\[1, 2\]'"),
        (members_of({"png": png, "json": lambda _: b"[1]"}), r"0000.json of .* has the label '\[1\]', where a whole n"),
        (members_of({"png": png, "cls": lambda _: b"cat"}), "0000.cls of .* has the label 'cat', where a whole number"),
        (members_of({"png": png, "cls": lambda _: b"1.5"}), "0000.cls of .* has the label '1.5', where a whole number"),
        (members_of({"png": png, "cls": lambda _: b"true"}), "0000.cls of .* has the label 'True', where a whole numb"),
        (members_of({"png": png, "cls": lambda _: b""}), "0000.cls of .* has the label '', where a whole number"),
        (members_of({"png": png, "cls": lambda _: b"\xff\xfe"}), "0000.cls of .* has the label '.*', where a whole nu"),
    ],
)  # fmt: skip
def test_what_is_unclear_is_refused_with_its_cause(
    members: list[tuple[str, bytes]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path, members)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("hidden", ["._{}.png", "__MACOSX/{}.png", ".hidden/{}.png"])
def test_hidden_members_are_left_out(hidden: str, tmp_path: Path) -> None:
    members = []
    for number in range(6):
        members += [
            (hidden.format(number), b"Mac OS X"),
            (f"./{number}.png", png(number)),
            (f"./{number}.cls", label(number)),
        ]
    assert load(tmp_path, members).train.labels.tolist() == [0, 1, 2] * 2


def test_samples_without_an_image_are_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 samples in .* have no image, and are left out"):
        assert len(load(tmp_path, [*members_of(PLAIN), ("0009.txt", b"a thing")]).train) == 6


@pytest.mark.parametrize("kept", [0.5, 0.3])
def test_a_shard_that_is_cut_off_is_refused(kept: float, tmp_path: Path) -> None:
    """Where the cut is between two members, tarfile says nothing, and images would be missing."""
    write_tar(tmp_path / "train.tar", members_of(PLAIN))
    whole = (tmp_path / "train.tar").read_bytes()
    cut = int(kept * len(whole)) // 512 * 512
    for size in (cut, cut + 100, whole.index(b"0003.png"), whole.index(b"0003.png") + 200):
        write_tar(tmp_path / "test.tar", members_of(PLAIN))
        (tmp_path / "train.tar").write_bytes(whole[:size])
        with pytest.raises(UsageError, match=r"train.tar(: unexpected end of data| is cut off or damaged|:)"):
            data.load_dataset(f"wds/{tmp_path}", (12, 12), 3)


def test_joined_shards_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", members_of(PLAIN))
    (tmp_path / "train.tar").write_bytes((tmp_path / "train.tar").read_bytes() * 2)
    write_tar(tmp_path / "test.tar", members_of(PLAIN))
    with pytest.raises(
        UsageError, match="train.tar holds more after its end behind byte .*; write it again, as one tar"
    ):
        data.load_dataset(f"wds/{tmp_path}", (12, 12), 3)


@pytest.mark.parametrize(
    "text",
    ["\ufeff" + "\n".join(CLASSES), "\n".join(CLASSES) + "\n\n \n", "\r\n".join(CLASSES) + "\r\n"],
    ids=["byte-order mark", "blank lines at the end", "Windows"],
)
def test_class_names(text: str, tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_bytes(text.encode())
    assert load(tmp_path, members_of(PLAIN)).classes == tuple(CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cat\n\ndog\nemu", "line 2 of .*classnames.txt is blank; write the name of class 1 there, or remove it"),
        (b"\ncat\ndog\nemu", "line 1 of .*classnames.txt is blank"),
        ("cat\ndog\nemu".encode("utf-16"), "classnames.txt is not UTF-8: invalid start byte at byte 0; save it as UTF"),
    ],
)  # fmt: skip
def test_class_names_that_would_shift_are_refused(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_bytes(text)
    with pytest.raises(UsageError, match=message):
        load(tmp_path, members_of(PLAIN))
