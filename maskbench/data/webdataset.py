"""wds/FOLDER: tar shards as webdataset writes them, read where they are.

A member of a tar file lies in one piece, so any image can be read alone once its position is known. There is no order
of shards and no shuffle buffer; images are drawn in the same order as from any other source.
"""

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch

from maskbench.data.encoded_images import EncodedImages
from maskbench.data.image_source import (
    IMAGE_SUFFIXES,
    EncodedDataset,
    ImageSource,
    find_split,
    list_files,
    select_splits,
)
from maskbench.data.string_table import StringTable
from maskbench.errors import UsageError

PREFIX = "wds/"
CLASS_NAMES = "classnames.txt"  # beside the shards, one class a line, as OpenCLIP has it
EXPECTED = "shards such as train-0000.tar and test-0000.tar, or folders train and test of them"
NO_LABEL = -1


def find_source(root: Path) -> ImageSource:
    """The folder `root` of shards. UsageError where there is none."""
    if not root.is_dir():
        raise UsageError(f"no folder {root}: give wds/FOLDER, a folder of tar shards on this machine")
    key = {"shards": str(root.resolve()), "files": list_files(root, {".tar", ".txt"})}
    return ImageSource(root.resolve().name, key, lambda _: select_splits(root, _read_shards(root), EXPECTED))


def _read_shards(root: Path) -> EncodedDataset:
    """Every split; images without a label have NO_LABEL. UsageError that names a shard that cannot be read."""
    shards_by_split: dict[str, list[Path]] = {}
    for shard in sorted(root.rglob("*.tar")):
        split = find_split(shard.relative_to(root), anywhere=True)
        if split is not None:
            shards_by_split.setdefault(split, []).append(shard)
    splits = {split: _read_split(root, shards) for split, shards in shards_by_split.items()}
    labels = torch.cat([torch.tensor([NO_LABEL]), *(images.labels for images in splits.values())])
    return EncodedDataset(splits, _read_class_names(root, int(labels.max()) + 1))


def _read_split(root: Path, shards: list[Path]) -> EncodedImages:
    rows = [(number, *image) for number, shard in enumerate(shards) for image in _list_images(root, shard)]
    file, names, labels, start, size = zip(*rows, strict=True) if rows else ((),) * 5
    label, *position = (torch.tensor(column, dtype=torch.int64) for column in (labels, file, start, size))
    return EncodedImages(label, StringTable.from_strings(names), StringTable.from_strings(map(str, shards)), *position)


def _list_images(root: Path, shard: Path) -> Iterator[tuple[str, int, int, int]]:
    """Name, label, start and size in bytes of each image of a shard."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for _, members in groupby(filter(tarfile.TarInfo.isfile, tar), _sample_key):
                by_suffix = {Path(member.name.lower()).suffix: member for member in members}
                label = _read_label(tar, by_suffix)
                for image in [by_suffix[suffix] for suffix in by_suffix if suffix in IMAGE_SUFFIXES][:1]:
                    yield f"{image.name} of {shard.relative_to(root)} in {root}", label, image.offset_data, image.size
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UsageError(f"cannot read {shard}: {error}; write it again, uncompressed") from None


def _sample_key(member: tarfile.TarInfo) -> str:
    """webdataset's key: the members of one sample follow each other and share their name up to the first dot."""
    folder, slash, file = member.name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _read_label(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> int:
    """The number in the sample's member .cls, or `label` in its member .json; else NO_LABEL."""
    for suffix in (".cls", ".json"):
        content = tar.extractfile(members[suffix]) if suffix in members else None
        value = NO_LABEL if content is None else json.loads(content.read())
        if isinstance(value, dict):
            value = value.get("label", NO_LABEL)
        if value != NO_LABEL:
            return int(value)
    return NO_LABEL


def _read_class_names(root: Path, count: int) -> tuple[str, ...]:
    """The lines of CLASS_NAMES, at least `count`; without that file "0", "1", ..."""
    file = root / CLASS_NAMES
    if not file.exists():
        return tuple(map(str, range(count)))
    names = tuple(file.read_text().splitlines())
    if len(names) < count:
        raise UsageError(f"{file} names {len(names)} classes, but there are labels up to {count - 1}; complete it")
    return names
