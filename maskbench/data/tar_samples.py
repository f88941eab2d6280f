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

from maskbench.data.classes import MAX_CLASSES
from maskbench.data.file_listing import OTHER_IMAGES, is_hidden
from maskbench.data.image_source import IMAGE_SUFFIXES
from maskbench.errors import UsageError
from maskbench.runtime.regular_files import MIB, open_regular

NO_LABEL = -1
LABEL_FIELDS = ("cls", "json")
BLOCK = 512  # bytes
END = 2 * BLOCK  # a tar file ends with two blocks of zeros,
MAX_PADDING = 16 * MIB  # and perhaps more of them, up to a multiple of what its writer writes at once
MAX_LABEL = MIB  # bytes of a member that holds a label


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
        with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = (member for member in _in_order(shard, tar) if not _is_hidden(member.name))
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
            _ensure_whole(shard, tar.offset)
    except UsageError:
        raise
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:  # tarfile lets some of a damaged header through
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"cannot read {shard}: {reason}; write it again, uncompressed") from None


def _in_order(shard: Path, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members that are files. UsageError where one does not begin behind the one before it, as some damaged
    headers have it, which would be read again and again, or does not lie in one piece."""
    end = 0
    for member in tar:
        if member.size < 0 or member.offset < end:
            raise UsageError(f"{shard} is damaged near byte {end}: a member has no sensible size; write it again")
        end = member.offset_data
        if member.issparse():
            raise UsageError(f"{member.name} of {shard} is stored with its gaps left out; write it without --sparse")
        if member.isfile():
            yield member


def _is_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in PurePosixPath(name).parts if part not in (".", ".."))


def _split_name(name: str) -> tuple[str, str]:
    """Key and field of a member, as webdataset splits them; the field in small letters."""
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return folder + slash + key, ending.lower()


def _ensure_whole(shard: Path, end: int) -> None:
    """UsageError where the file does not end with zeros alone, two blocks or more, from byte `end` on."""
    with open_regular(shard) as file:
        file.seek(end)
        rest = file.read(MAX_PADDING + 1)
    if len(rest) < END or any(rest[:BLOCK]):
        raise UsageError(f"{shard} is cut off or damaged behind byte {end}; write it again, as one tar file")
    if rest.count(0) < len(rest) or len(rest) > MAX_PADDING:
        raise UsageError(f"{shard} holds more after its end behind byte {end}; write it again, as one tar file")


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
    if member.size > MAX_LABEL:
        raise UsageError(f"{member.name} of {shard} has {member.size:,} bytes, too many for a label; shorten it")
    content = tar.extractfile(member)
    value = _parse_label(b"" if content is None else content.read())
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(
            f"{member.name} of {shard} has the label {str(value)[:40]!r}, where a whole number should be; number the "
            f"classes from 0, with their names in classnames.txt"
        )
    if value >= MAX_CLASSES:
        raise UsageError(
            f"{member.name} of {shard} has a label above {MAX_CLASSES - 1:,}; number the classes from 0, without gaps"
        )
    return max(value, NO_LABEL)


def _parse_label(text: bytes) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text[:40].decode(errors="replace")
    if isinstance(value, dict):
        value = value.get("label", NO_LABEL)
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 40:
        value = int(value)
    return value
