"""wds/FOLDER: tar shards as webdataset writes them, read where they are.

A member of a tar lies in one piece, so that, once it is known where, any image can be read alone: no order of shards,
no shuffle buffer, but the order that every other data set has.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch

from maskbench.data.encoded_images import Encoded
from maskbench.data.folders import IMAGES, SPLITS
from maskbench.data.string_table import Texts
from maskbench.errors import UsageError

PREFIX = "wds/"
NAMES = "classnames.txt"  # beside the shards, a class a line, as OpenCLIP has it
EXPECTED = "shards such as train-0000.tar and test-0000.tar, or folders train and test of them"
NONE = -1  # the label of an image that has none


def read(root: Path) -> tuple[dict[str, Encoded], tuple[str, ...]]:
    """Splits by name and the class names; the label of an image that has none is NONE. UsageError that names the shard
    that cannot be read."""
    parts: dict[str, list[Path]] = {}
    for shard in sorted(root.rglob("*.tar")):
        words = re.split(r"[^a-z]+", shard.relative_to(root).as_posix().lower())
        for split in {SPLITS[word] for word in words if word in SPLITS}:
            parts.setdefault(split, []).append(shard)
    splits = {split: _split(root, shards) for split, shards in parts.items()}
    labels = torch.cat([torch.tensor([NONE]), *(encoded.labels for encoded in splits.values())])
    return splits, _names(root, int(labels.max()) + 1)


def _split(root: Path, shards: list[Path]) -> Encoded:
    found = [(number, *image) for number, shard in enumerate(shards) for image in _images(root, shard)]
    file, names, labels, start, size = zip(*found, strict=True) if found else ((),) * 5
    label, *place = (torch.tensor(column, dtype=torch.int64) for column in (labels, file, start, size))
    return Encoded(label, Texts.of(names), Texts.of(map(str, shards)), *place)


def _images(root: Path, shard: Path) -> Iterator[tuple[str, int, int, int]]:
    """Name, label, start and size of each image of a shard."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for _, members in groupby(filter(tarfile.TarInfo.isfile, tar), _sample):
                by_suffix = {Path(member.name.lower()).suffix: member for member in members}
                label = _label(tar, by_suffix)
                for image in [by_suffix[suffix] for suffix in by_suffix if suffix in IMAGES][:1]:
                    yield f"{image.name} of {shard.relative_to(root)} in {root}", label, image.offset_data, image.size
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UsageError(f"cannot read {shard}: {error}; write it again, uncompressed") from None


def _sample(member: tarfile.TarInfo) -> str:
    """webdataset's key: the members of a sample follow each other and are called alike up to the first dot."""
    folder, slash, file = member.name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label(tar: tarfile.TarFile, sample: dict[str, tarfile.TarInfo]) -> int:
    """Of a member .cls, which is a number, or of a member .json, which has a number for `label`."""
    for suffix in (".cls", ".json"):
        content = tar.extractfile(sample[suffix]) if suffix in sample else None
        value = NONE if content is None else json.loads(content.read())
        if isinstance(value, dict):
            value = value.get("label", NONE)
        if value != NONE:
            return int(value)
    return NONE


def _names(root: Path, count: int) -> tuple[str, ...]:
    file = root / NAMES
    if not file.exists():
        return tuple(map(str, range(count)))
    names = tuple(file.read_text().splitlines())
    if len(names) < count:
        raise UsageError(f"{file} names {len(names)} classes, but there are labels up to {count - 1}; complete it")
    return names
