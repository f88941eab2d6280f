"""The packed cache: a change is noticed, named, and the data are packed again."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from maskbench import data
from maskbench.data import packed_file
from maskbench.data.packed_file import DamagedCache, read_packed
from tests.helpers.image_files import write_folders, write_parquet

Tensors = dict[str, Tensor]


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a packed data set, alone in its cache."""
    monkeypatch.setenv("MASKBENCH_CACHE", str(tmp_path / "cache"))
    write_folders(tmp_path / "photos", "train", 0, 30)
    write_folders(tmp_path / "photos", "test", 50, 3)
    load(tmp_path)
    (path,) = (tmp_path / "cache" / "datasets").glob("*.safetensors")
    yield path
    data.load_dataset.cache_clear()


def load(root: Path) -> Any:
    data.load_dataset.cache_clear()
    return data.load_dataset(str(root / "photos"), (12, 12), 3)


def replace(path: Path, content: bytes) -> None:
    path.unlink()  # not in place: the file is mapped
    path.write_bytes(content)


def content_of(path: Path) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Metadata and values; safetensors writes metadata in any order."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key).tolist() for key in file.keys()}  # noqa: SIM118


def rewrite(path: Path, change: Callable[[Tensors, dict[str, str]], None]) -> None:
    """The file with other tensors or metadata, valid as safetensors."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    path.unlink()
    save_file(tensors, path, metadata)


def zero_pixels(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["train.pixels"][3] = 0


def cut_labels(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["train.labels"] = tensors["train.labels"][:3].clone()


def change_label(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["test.labels"][0] += 1


def change_type(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["train.stretch"] = tensors["train.stretch"].view(torch.int32)


def drop_split(tensors: Tensors, _: dict[str, str]) -> None:
    for key in [key for key in tensors if key.startswith("test.")]:
        del tensors[key]


def swap_classes(_: Tensors, metadata: dict[str, str]) -> None:
    metadata["classes"] = json.dumps(json.loads(metadata["classes"])[::-1])


def change_fingerprint(_: Tensors, metadata: dict[str, str]) -> None:
    metadata["fingerprint"] = "0" * 16


def drop_metadata(_: Tensors, metadata: dict[str, str]) -> None:
    metadata.clear()


@pytest.mark.parametrize(
    "change",
    [zero_pixels, cut_labels, change_label, change_type, drop_split, swap_classes, change_fingerprint, drop_metadata],
)
def test_what_was_changed_is_packed_again(
    change: Callable[[Tensors, dict[str, str]], None], packed: Path, tmp_path: Path
) -> None:
    before = content_of(packed)
    rewrite(packed, change)
    with pytest.warns(UserWarning, match=r"cannot be used \(.*\); preparing the data again"):
        load(tmp_path)
    assert content_of(packed) == before, "the same data, made again"


def test_every_kind_of_damage_to_the_file_is_noticed(packed: Path) -> None:
    whole = packed.read_bytes()
    for content in (b"", whole[:100], whole[:-1], whole + b"\0", b"\xff" * len(whole), b"\0" * len(whole)):
        replace(packed, content)
        with pytest.raises(DamagedCache):
            read_packed(packed)
    for position in range(0, len(whole), len(whole) // 61):
        replace(packed, whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(DamagedCache):
            read_packed(packed)
    replace(packed, whole)
    read_packed(packed)


def test_another_file_under_its_name_is_noticed(packed: Path) -> None:
    other = packed.with_stem("0" * 20)
    packed.rename(other)
    with pytest.raises(DamagedCache, match="of another data set"):
        read_packed(other)
    os.mkfifo(packed)
    with pytest.raises(DamagedCache, match="it is a pipe, not a file"):
        read_packed(packed)


def test_all_blocks_are_checked_on_request(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_file, "BLOCK", 64)
    monkeypatch.setattr(packed_file, "SAMPLED", 0)  # no block of any tensor, unless all are asked for
    packed.unlink()
    load(tmp_path)
    before, content = content_of(packed), packed.read_bytes()
    replace(packed, content[:-2000] + bytes(500) + content[-1500:])
    load(tmp_path)
    monkeypatch.setenv("MASKBENCH_CHECK_CACHE", "1")
    with pytest.warns(UserWarning, match=r"pixels is not as it was written, near byte \d+\); preparing the data again"):
        load(tmp_path)
    assert content_of(packed) == before


def test_a_sample_of_the_blocks_of_large_tensors_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of ten blocks: damage to eight is found for certain, and damage to one sooner or later."""
    monkeypatch.setattr(packed_file, "SAMPLED", 3)
    monkeypatch.setattr(packed_file, "BLOCK", 64)
    tensor = torch.arange(640).to(torch.uint8)
    checksums = list(packed_file._checksums(tensor, range(10)))
    packed_file._ensure_unchanged("pixels", tensor, checksums, every_block=False)
    with pytest.raises(DamagedCache, match="pixels is not as it was written"):
        packed_file._ensure_unchanged("pixels", tensor, [0] * 8 + checksums[8:], every_block=False)
    with pytest.raises(DamagedCache, match="near byte 576"):
        for _ in range(200):
            packed_file._ensure_unchanged("pixels", tensor, [*checksums[:9], 0], every_block=False)


def test_unpacked_images_that_were_changed_are_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet is unpacked into a file of the cache, from which images are streamed."""
    monkeypatch.setenv("MASKBENCH_CACHE", str(tmp_path / "cache"))
    write_parquet(tmp_path / "photos" / "train.parquet", 0, 30)
    write_parquet(tmp_path / "photos" / "test.parquet", 50, 3)

    def stream() -> Tensor:
        data.load_dataset.cache_clear()
        splits = data.load_dataset(str(tmp_path / "photos"), (12, 12), 3, None, None, 0)
        return splits.train.take(torch.arange(30)).pixels

    before = stream()
    (unpacked,) = (tmp_path / "cache").rglob("*.encoded")
    content = unpacked.read_bytes()
    for changed in (content[:-1], bytes(len(content))):
        unpacked.write_bytes(changed)
        with pytest.warns(UserWarning, match=r"encoded was changed since\); preparing the data again"):
            assert torch.equal(stream(), before)
    data.load_dataset.cache_clear()
