"""The samples of one tar shard, as webdataset writes them: which member is the image, and which the label.

A member's name up to its first dot is the key of its sample; all that follows is its field. The members of a sample
follow each other. A field that is exactly `png` or `cls` counts first; `seg.png` counts only where it is the only one.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath

from maskbench.data.file_listing import OTHER_IMAGES, is_hidden
from maskbench.data.image_source import IMAGE_SUFFIXES
from maskbench.errors import UsageError

NO_LABEL = -1
LABEL_FIELDS = ("cls", "json")
BLOCK = 512  # bytes; a tar file ends with two blocks of zeros


@dataclass(frozen=True)
class TarImage:
    """An image of a shard: its member's name, its label or NO_LABEL, its first byte, and its size in bytes."""

    name: str
    label: int
    start: int
    size: int


@dataclass
class Shards:
    """What holds over all shards of a data set.

    Attributes:
        image_fields: What stands before the ending of an image's field ("" in `png`, "seg" in `seg.png`), and the name
            of a member that has it. More than one would be pictures of several kinds.
        without_image: Number of samples that have no image.
    """

    image_fields: dict[str, str] = field(default_factory=dict)
    without_image: int = 0


def list_images(shard: Path, shards: Shards) -> Iterator[TarImage]:
    """List the image of each sample of a shard.

    Raises:
        UsageError: The shard is compressed, cut off or unsorted, it is unclear which member is the image or the label,
            or a label is no number.
    """
    keys: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar:
            members = (member for member in tar if member.isfile() and not _is_hidden(member.name))
            for key, of_sample in groupby(members, lambda member: _split_name(member.name)[0]):
                if key in keys:
                    raise UsageError(
                        f"the members of the sample {key} of {shard} do not follow each other; write it sorted by "
                        f"name, e.g. with tar --sort=name"
                    )
                keys.add(key)
                image = _read_sample(shard, tar, key, list(of_sample), shards)
                if image is None:
                    shards.without_image += 1
                else:
                    yield image
            _ensure_whole(shard, tar)
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"cannot read {shard}: {error}; write it again, uncompressed") from None


def _is_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in PurePosixPath(name).parts if part not in (".", ".."))


def _split_name(name: str) -> tuple[str, str]:
    """Key and field of a member, as webdataset splits them; the field in small letters."""
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return folder + slash + key, ending.lower()


def _ensure_whole(shard: Path, tar: tarfile.TarFile) -> None:
    """UsageError where the file does not end after the last member that was found, with zeros alone."""
    with shard.open("rb") as file:
        file.seek(tar.offset)
        mark, rest = file.read(BLOCK), file.read()
    if len(mark) < BLOCK or any(mark) or any(rest):
        what = "is cut off or damaged" if any(mark) or not mark else "holds more after its end"
        raise UsageError(f"{shard} {what} behind byte {tar.offset}; write it again, as one tar file")


def _read_sample(
    shard: Path, tar: tarfile.TarFile, key: str, members: Sequence[tarfile.TarInfo], shards: Shards
) -> TarImage | None:
    fields: dict[str, tarfile.TarInfo] = {}
    for member in members:
        if fields.setdefault(_split_name(member.name)[1], member) is not member:
            raise UsageError(f"{shard} has two members {member.name}; remove one")
    image = _find_image(shard, key, fields, shards)
    if image is None:
        return None
    return TarImage(image.name, _find_label(shard, tar, key, fields), image.offset_data, image.size)


def _find_image(shard: Path, key: str, fields: Mapping[str, tarfile.TarInfo], shards: Shards) -> tarfile.TarInfo | None:
    found = [name for name in fields if f".{name.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    found = [name for name in found if "." not in name] or found
    if not found:
        unread = [member.name for name, member in fields.items() if f".{name.rpartition('.')[2]}" in OTHER_IMAGES]
        if unread:
            raise UsageError(f"{unread[0]} of {shard} is of a format that is not read; convert it, e.g. to PNG")
        return None
    if len(found) > 1:
        names = ", ".join(fields[name].name for name in found[:3])
        raise UsageError(
            f"the sample {key} of {shard} has several images: {names}; a sample's name ends at its first dot; keep one "
            f"image a sample, or rename so that each has a name of its own"
        )
    member = fields[found[0]]
    shards.image_fields.setdefault(found[0].rpartition(".")[0], member.name)
    if len(shards.image_fields) > 1:
        raise UsageError(
            f"images have different fields: {' and '.join(shards.image_fields.values())} (of {shard}); rename those "
            f"that are meant to KEY.png or the like"
        )
    return member


def _find_label(shard: Path, tar: tarfile.TarFile, key: str, fields: Mapping[str, tarfile.TarInfo]) -> int:
    """The number in the sample's field cls, or `label` in its field json; else NO_LABEL."""
    exact = [name for name in LABEL_FIELDS if name in fields]
    dotted = [name for name in fields if "." in name and name.rpartition(".")[2] in LABEL_FIELDS]
    labels = {fields[name].name: _read_label(shard, tar, fields[name]) for name in exact or dotted}
    known = {name: label for name, label in labels.items() if label != NO_LABEL}
    if len(known) > 1 and (not exact or len(set(known.values())) > 1):
        listed = ", ".join(f"{name} ({label})" for name, label in known.items())
        raise UsageError(f"the sample {key} of {shard} has several labels: {listed}; keep one, in {key}.cls")
    return next(iter(known.values()), NO_LABEL)


def _read_label(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    """The number in a member, or its `label` where it is a JSON object; NO_LABEL where that has none."""
    content = tar.extractfile(member)
    text = b"" if content is None else content.read()
    try:
        value = json.loads(text)
    except ValueError:
        value = text[:40].decode(errors="replace")
    if isinstance(value, dict):
        value = value.get("label", NO_LABEL)
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(
            f"{member.name} of {shard} has the label {str(value)[:40]!r}, where a whole number should be; number the "
            f"classes from 0, with their names in classnames.txt"
        )
    return value
