"""wds/FOLDER: tar shards as webdataset writes them, read where they are.

A member of a tar file lies in one piece, so any image can be read alone once its position is known. There is no order
of shards and no shuffle buffer; images are drawn in the same order as from any other source.
"""

import warnings
from collections import Counter
from pathlib import Path

import torch

from maskbench.data.classes import number_classes
from maskbench.data.encoded_images import EncodedImages
from maskbench.data.file_listing import list_files, summarise
from maskbench.data.image_source import EncodedDataset, ImageSource, find_split, select_splits
from maskbench.data.string_table import StringTable
from maskbench.data.tar_samples import NO_LABEL, Shards, list_images
from maskbench.data.unknown_layouts import describe_file
from maskbench.errors import UsageError
from maskbench.runtime.regular_files import MIB, read_regular

PREFIX = "wds/"
SHARD = {".tar"}
COMPRESSED = {".tgz", ".gz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".lz4"}
CLASS_NAMES = "classnames.txt"  # beside the shards, one class a line, as OpenCLIP has it
EXPECTED = "shards such as train-0000.tar and test-0000.tar, or folders train and test of them"


def find_source(root: Path) -> ImageSource:
    """The folder `root` of shards. UsageError where there is none, or where it is unclear which split a shard is."""
    if root.is_file():
        raise UsageError(describe_file(root))
    if not root.is_dir():
        raise UsageError(f"no folder {root}: give wds/FOLDER, a folder of tar shards on this machine")
    listing = list_files(root, {*SHARD, ".txt"}, COMPRESSED)
    left_out = Counter({what: count for what, count in listing.left_out.items() if "ending" not in what})
    shards_by_split: dict[str, list[Path]] = {}
    for shard in listing.with_suffix(SHARD):
        split = find_split(shard, anywhere=True)
        if split is None:
            left_out["shards of no split"] += 1
        else:
            shards_by_split.setdefault(split, []).append(shard)
    key = {"shards": str(root.resolve()), "files": listing.key}

    def read(_: Path) -> EncodedDataset:
        return select_splits(root, _read_shards(root, shards_by_split), EXPECTED)

    def explain() -> str:
        return "write the number of its class into the member .cls of each sample"

    return ImageSource(root.resolve().name, key, read, summarise(left_out), explain)


def _read_shards(root: Path, shards_by_split: dict[str, list[Path]]) -> EncodedDataset:
    """Every split; images without a label have NO_LABEL. UsageError that names a shard that cannot be read."""
    facts = Shards()
    splits = {split: _read_split(root, shards, facts) for split, shards in shards_by_split.items()}
    if facts.without_image:
        warnings.warn(f"{facts.without_image} samples in {root} have no image, and are left out", stacklevel=2)
    labels = torch.cat([torch.tensor([NO_LABEL]), *(images.labels for images in splits.values())])
    return EncodedDataset(splits, _read_class_names(root, int(labels.max()) + 1))


def _read_split(root: Path, shards: list[Path], facts: Shards) -> EncodedImages:
    rows = [
        (number, f"{image.name} of {shard} in {root}", image.label, image.start, image.size)
        for number, shard in enumerate(shards)
        for image in list_images(root / shard, facts)
    ]
    file, names, labels, start, size = zip(*rows, strict=True) if rows else ((),) * 5
    label, *position = (torch.tensor(column, dtype=torch.int64) for column in (labels, file, start, size))
    files = StringTable.from_strings(str(root / shard) for shard in shards)
    return EncodedImages(label, StringTable.from_strings(names), files, *position)


def _read_class_names(root: Path, count: int) -> tuple[str, ...]:
    """The lines of CLASS_NAMES, at least `count`; without that file "0", "1", ..."""
    file = root / CLASS_NAMES
    if not file.exists():
        return number_classes(root, count)
    try:  # some editors begin with a byte-order mark
        lines = read_regular(file, 64 * MIB).decode("utf-8-sig").rstrip().split("\n")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}; bring it back, or remove it") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from None
    names = tuple(line.removesuffix("\r") for line in lines)
    blank = [number for number, name in enumerate(names, 1) if not name.strip()]
    if blank:
        raise UsageError(
            f"line {blank[0]} of {file} is blank; write the name of class {blank[0] - 1} there, or remove it"
        )
    if len(names) < count:
        raise UsageError(f"{file} names {len(names)} classes, but there are labels up to {count - 1}; complete it")
    return names
